package fleet_test

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/fleet"
)

func bash(name, command string, after ...string) wire.PlanStep {
	raw, _ := json.Marshal(map[string]string{"command": command})
	return wire.PlanStep{Name: name, Tool: "bash", Inputs: raw, Network: step.NetworkNone, DependsOn: after}
}

// watch is a client that waits.
type watch struct {
	*client.Client
	t   *testing.T
	ctx context.Context
}

func (w watch) submit(steps ...wire.PlanStep) string {
	w.t.Helper()
	run, err := w.Submit(w.ctx, wire.SubmitRun{Plan: wire.Plan{Goal: "fail over", Steps: steps}}, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return run.ID
}

func (w watch) until(id, what string, ok func(wire.RunDetail) bool) wire.RunDetail {
	w.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		d, err := w.Run(w.ctx, id)
		if err == nil && ok(d) {
			return d
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("not reached: %s: %+v, %v", what, d, err)
		}
	}
}

func (w watch) ended(id string) wire.RunDetail {
	w.t.Helper()
	return w.until(id, "it ends", func(d wire.RunDetail) bool { return d.Run.Status.Terminal() })
}

func (w watch) output(id, stepID string) string {
	w.t.Helper()
	page, err := w.Output(w.ctx, id, stepID, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	var text strings.Builder
	for _, c := range page.Chunks {
		text.Write(c.Data)
	}
	return text.String()
}

func workspaces(d *fleet.Daemon) (names []string) {
	for _, r := range d.Resources() {
		if r.Kind == "workspace" {
			names = append(names, r.Name)
		}
	}
	return names
}

func (w watch) eventually(what string, ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("not reached: %s", what)
		}
	}
}

const lease = 5 * time.Second

// pair is a fleet of two hosts, and a client of its API.
func pair(t *testing.T, bin string) (*fleet.Fleet, watch) {
	t.Helper()
	f, err := fleet.Start(t.Context(), fleet.Config{
		Dir: fleet.Dir(t), Bin: bin, APIs: 1, Hosts: make([]fleet.Host, 2), Tenants: []string{"acme"},
		Lease: lease, Heartbeat: time.Second, Env: []string{"NOFX_WORKSPACE_KEEP=0s"}, Note: func(name, what string) { t.Log(name, what) },
	})
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c, err := f.Dial(0, "acme")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return f, watch{c, t, ctx}
}

// hostOf is the host that has a workspace, and the one that has none.
func (w watch) hostOf(f *fleet.Fleet) (host, other *fleet.Daemon) {
	w.t.Helper()
	for i, candidate := range f.Daemons {
		if names := workspaces(candidate); len(names) > 0 {
			host, other = candidate, f.Daemons[1-i]
		}
	}
	if host == nil || len(workspaces(other)) > 0 {
		w.t.Fatal("the run is not on one host")
	}
	return host, other
}

// lose ends a host's daemon and all that runs there.
func (w watch) lose(host *fleet.Daemon) {
	w.t.Helper()
	if err := host.Down(w.ctx, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	for _, pid := range host.Supervisors() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			w.t.Error(err)
		}
	}
}

// A host is gone in the middle of a run's third step, with all that ran on it:
// the run goes on on another, where that step finds what the two before it left,
// and nothing of its own first try. The host that comes back keeps no copy.
func TestFailover(t *testing.T) {
	f, w := pair(t, fleet.Binaries(t))
	ctx, c := w.ctx, w.Client
	id := w.submit(
		bash("one", "mkdir -p d/e; echo one > d/e/f; ln -s d/e/f l; chmod 750 d; echo gone > gone"),
		bash("two", "cat l; rm gone; echo two > two; touch -d @1000000000.5 two", "one"),
		bash("three", "ls -A; cat l two; stat -c '%a %U %Y' d two; echo half > half; sleep 3", "two"),
	)
	d := w.until(id, "the third step has written something", func(d wire.RunDetail) bool {
		return d.Steps[2].Status == step.StepRunning && strings.Contains(w.output(id, d.Steps[2].ID), "two")
	})
	host, other := w.hostOf(f)
	first := w.output(id, d.Steps[2].ID)
	w.lose(host)
	killed := time.Now()
	w.until(id, "another host takes it up", func(d wire.RunDetail) bool { return d.Steps[2].Attempt == 2 && d.Steps[2].Status == step.StepRunning })
	if took := time.Since(killed); took > lease+5*time.Second {
		t.Errorf("taken up after %v", took)
	} else {
		t.Logf("taken up after %v", took)
	}
	d = w.ended(id)
	if got := w.output(id, d.Steps[2].ID); d.Run.Status != step.RunSucceeded || got != first || !strings.Contains(got, "one\ntwo\n") || strings.Contains(got, "half") || strings.Contains(got, "gone") {
		t.Errorf("%s: %q, at first %q", d.Run.Status, got, first)
	}
	events, err := c.Timeline(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	moved := 0
	for _, e := range events {
		if e.Type == step.EventRunMoved {
			moved++
			if e.Payload["layer"] != float64(2) {
				t.Errorf("%+v", e)
			}
		}
	}
	if moved != 1 {
		t.Errorf("%d events tell that the run has moved", moved)
	}
	host.Up()
	if err := host.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	w.eventually("nobody has the workspace any more", func() bool { return len(workspaces(host))+len(workspaces(other)) == 0 })

	// A run that has ended, whose workspace is gone, finds it again.
	// Here it is one with a size of its own.
	small := []wire.PlanStep{bash("one", "echo one > f"), bash("two", "cat f; df --output=size -m . | tail -1 | tr -d ' '; exit 1", "one")}
	for i := range small {
		small[i].Resources = &step.Resources{DiskMB: 32}
	}
	id = w.submit(small...)
	if d = w.ended(id); d.Run.Status != step.RunFailed {
		t.Fatalf("%+v", d)
	}
	before := w.output(id, d.Steps[1].ID)
	w.eventually("nobody has the workspace any more", func() bool { return len(workspaces(host))+len(workspaces(other)) == 0 })
	if _, err := c.RetryRun(ctx, id, wire.RetryRun{}, ""); err != nil {
		t.Fatal(err)
	}
	d = w.ended(id)
	if got := w.output(id, d.Steps[1].ID); !strings.HasPrefix(got, "one\n") || got != before || d.Steps[1].Generation != 2 {
		t.Errorf("generation %d: %q", d.Steps[1].Generation, got)
	}
}

// The host that a run goes on at dies while it puts the workspace together: what
// it has of it then is not used.
func TestFailoverToAHostThatDies(t *testing.T) {
	f, w := pair(t, fleet.Holdable(t))
	id := w.submit(bash("one", "echo one > one; mkdir d"), bash("two", "echo two > d/two; head -c 100000 /dev/urandom > big; sha256sum big > sum", "one"),
		bash("three", "cat one d/two; sha256sum -c sum; ls; sleep 3", "two"))
	d := w.until(id, "the third step has written something", func(d wire.RunDetail) bool {
		return d.Steps[2].Status == step.StepRunning && strings.Contains(w.output(id, d.Steps[2].ID), "two")
	})
	host, other := w.hostOf(f)
	w.eventually("it has written all", func() bool { return strings.HasSuffix(w.output(id, d.Steps[2].ID), "sum\n") })
	first := w.output(id, d.Steps[2].ID)
	w.lose(host)
	if err := other.At(w.ctx, failpoint.Restoring+"@three", func() error { return other.Down(w.ctx, syscall.SIGKILL) }); err != nil {
		t.Fatal(err)
	}
	half := workspaces(other)
	if len(half) != 1 {
		t.Fatalf("it has the workspaces %v", half)
	}
	other.Up()
	if d = w.ended(id); d.Run.Status != step.RunSucceeded {
		t.Fatalf("%+v", d)
	}
	if got := w.output(id, d.Steps[2].ID); got != first || !strings.Contains(got, "big: OK") {
		t.Errorf("%q, at first %q", got, first)
	}
	host.Up()
	if err := host.Ready(w.ctx); err != nil {
		t.Fatal(err)
	}
}
