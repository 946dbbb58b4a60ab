package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// withoutFiles is a driver that lacks what a step with files needs.
func withoutFiles() wire.DriverInfo {
	return offering("local", slices.DeleteFunc(slices.Clone(able), func(c string) bool { return c == "files" })...)
}

const withFiles = `"tool":"exec","inputs":{"argv":["cat","x"],"files":[{"path":"x","content":"y"}]}`

// A step goes to that of its regions where somebody can do it, not only to the
// first where somebody has its driver; and the other steps of its workspace go
// with it.
func TestStepGoesToTheRegionThatCan(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.RegionWait = 30 * time.Second })
	lesser, better := r.workerIn("eu-1", withoutFiles()), r.workerIn("eu-2")
	run := r.submit(`[{"name":"a",` + withFiles + `,"regions":["eu-1","us-1","eu-2"]},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	if d := r.run(run.ID); d.Steps[0].Region != "eu-1" {
		t.Fatalf("%+v", d.Steps)
	}
	if got := lesser.claim(4, 0); len(got) != 0 {
		t.Fatalf("got %+v", got)
	}
	for _, name := range []string{"a", "b"} {
		l := better.one()
		if l.StepName != name || l.Attempt != 1 {
			t.Fatalf("%+v", l)
		}
		better.finish(l, exit(0))
	}
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded || d.Steps[1].Region != "eu-2" {
		t.Errorf("%+v", d)
	}
	if diff := cmp.Diff([]string{"a: eu-1 -> eu-2: no worker in eu-1 has the driver local with the capability files"}, r.moves(run.ID)); diff != "" {
		t.Error(diff)
	}

	// One that may be in the first alone ends, and says where it could be done.
	run = r.submit(`[{"name":"a",` + withFiles + `,"region":"eu-1"}]`)
	if got := lesser.claim(4, 0); len(got) != 0 {
		t.Fatalf("got %+v", got)
	}
	if d := r.run(run.ID); d.Run.Status != step.RunFailed || !strings.HasSuffix(d.Steps[0].Verdict.Message, "lacks the capability files; that of a worker in eu-2 has it, where the step does not go") {
		t.Errorf("%+v", d.Steps[0])
	}
}

// A worker outside of the tenant's residency does not count: the step is not left
// to it, which would never take it.
func TestStepIsNotLeftOutsideTheResidency(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.RegionWait = 30 * time.Second })
	lesser := r.workerIn("eu-1", withoutFiles())
	r.workerIn("us-1", elsewhere("eu-1", offering("local", able...)))
	r.reside("eu-1")
	run := r.submit(`[{"name":"a",` + withFiles + `}]`)
	if got := lesser.claim(4, 0); len(got) != 0 {
		t.Fatalf("got %+v", got)
	}
	if d := r.run(run.ID); d.Run.Status != step.RunFailed || !strings.Contains(d.Steps[0].Verdict.Message, "lacks the capability files") {
		t.Errorf("%+v", d)
	}
}

// Two steps that share a workspace and can each be done in another region alone
// are done one after the other, without sending each other to and fro.
func TestStepsOfOneWorkspaceInTwoRegions(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.RegionWait = 30 * time.Second })
	kernel := withoutFiles()
	kernel.Capabilities = append(kernel.Capabilities, "isolation.gvisor")
	workers := []*worker{r.workerIn("eu-1", kernel), r.workerIn("eu-2")}
	run := r.submit(`[{"name":"a","tool":"test:echo","isolation":"gvisor","regions":["eu-1","eu-2"]},{"name":"b",` + withFiles + `,"regions":["eu-1","eu-2"]}]`)
	layer := 0
	r.eventually("both are done", func() bool {
		for _, w := range workers {
			for _, l := range w.claim(4, 0) {
				layer++
				if l.Snapshot {
					w.finish(l, w.save(l, layer, true, "all of it"))
					continue
				}
				w.finish(l, exit(0))
			}
		}
		d := r.run(run.ID)
		if d.Run.Status.Terminal() && d.Run.Status != step.RunSucceeded {
			t.Fatalf("%+v", d)
		}
		return d.Run.Status == step.RunSucceeded
	})
	if n := len(r.moves(run.ID)); n > 5 {
		t.Errorf("%d moves: %v", n, r.moves(run.ID))
	}
}

// A backlog of any length of what one worker cannot do ends no step of it, while
// another worker can, and keeps no other tenant's steps from that one.
func TestBacklogOfOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lesser, better := r.worker("lesser", withoutFiles()), r.worker("better")
	plan := strings.TrimSuffix(strings.Repeat(`{"name":"s",`+withFiles+`,"workspace":"step"},`, 100), ",")
	for i := range 100 {
		plan = strings.Replace(plan, `"s"`, fmt.Sprintf(`"s%d"`, i), 1)
	}
	const runs = 44 // more steps than are remembered
	for range runs {
		r.submit("[" + plan + "]")
	}
	for range 2 { // each looks for some seconds
		if got := lesser.claim(64, 0); len(got) != 0 {
			t.Fatalf("got %d", len(got))
		}
	}
	if n := r.column("SELECT count(*)::text FROM nofx.step WHERE status = 'queued'")[0]; n != fmt.Sprint(runs*100) {
		t.Errorf("%s of %d steps wait still", n, runs*100)
	}
	r.client("rival", "user")
	if resp, raw := r.call("POST", "/api/runs", r.keys["rival user"], []byte(`{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"},{"name":"b",`+withFiles+`,"workspace":"step"}]}}`)); resp.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
	if got := lesser.claim(1, 20*time.Second); len(got) != 1 || got[0].TenantID != "rival" || got[0].StepName != "a" {
		t.Errorf("another tenant's step is not taken: %+v", got)
	}
	if got := better.claim(8, 0); len(got) != 8 {
		t.Errorf("who can got %d", len(got))
	}
}
