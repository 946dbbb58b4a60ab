package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Retries of steps and runs by hand, of what is in no DLQ, too.
func TestRetryByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"bash","inputs":{"command":"exit 7"},"depends_on":["a"]},{"name":"c","tool":"test:echo","depends_on":["b"]},
		{"name":"d","tool":"bash","inputs":{"command":"true"},"tools_allowed":["gate:lint"]},{"name":"e","tool":"test:echo","depends_on":["d"]},{"name":"f","tool":"test:echo","depends_on":["c","d"]}]`)
	w.finish(w.one(), exit(0))
	w.finish(w.one(), exit(7))
	d := r.run(run.ID)
	id := map[string]string{}
	for _, s := range d.Steps {
		id[s.Name] = s.ID
	}
	if got, want := statuses(d), "failed a=succeeded/1 b=failed/1 c=cancelled/1 d=failed/1 e=cancelled/1 f=cancelled/1"; got != want {
		t.Fatal(got)
	}
	for name, want := range map[string]string{"a": "has succeeded", "c": `depends on "b", which is failed`, "d": "own policy", "e": `depends on "d"`} {
		if _, err := r.user.RetryStep(t.Context(), run.ID, id[name], ""); !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.user.RetryStep(t.Context(), run.ID, "step_x", ""); !step.Is(err, step.KindNotFound) {
		t.Error(err)
	}
	if _, err := r.user.RetryRun(t.Context(), "run_x", wire.RetryRun{}, ""); !step.Is(err, step.KindNotFound) {
		t.Error(err)
	}
	// Older clients send no body.
	if resp, raw := r.call("POST", "/runs/"+run.ID+"/steps/"+id["b"]+"/retry", r.keys["acme user"], nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
	if got, want := statuses(r.run(run.ID)), "running a=succeeded/1 b=queued/2 c=waiting/2 d=failed/1 e=cancelled/1 f=cancelled/1"; got != want {
		t.Error(got)
	}
	if _, err := r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{All: true}, ""); !step.Is(err, step.KindConflict) {
		t.Errorf("all, while it runs: %v", err)
	}
	w.finish(w.one(), exit(7))
	// The run: b again, and c with it; what policy refuses stays refused.
	re, err := r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{}, "")
	if err != nil || len(re.Steps) != 2 || re.Steps[0].Name != "b" || re.Steps[0].Generation != 3 || len(re.Refused) != 3 || re.Refused[0].ID != id["d"] ||
		!strings.Contains(re.Refused[0].Message, "own policy") {
		t.Fatalf("%+v %v", re, err)
	}
	w.finish(w.one(), exit(0))
	w.finish(w.one(), exit(0))
	if got, want := statuses(r.run(run.ID)), "failed a=succeeded/1 b=succeeded/3 c=succeeded/3 d=failed/1 e=cancelled/1 f=cancelled/1"; got != want {
		t.Error(got)
	}
	if _, err := r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{}, ""); !step.Is(err, step.KindConflict) {
		t.Errorf("nothing is left but what is refused: %v", err)
	}
	if re, err = r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{All: true}, ""); err != nil || len(re.Steps) != 3 {
		t.Fatalf("%+v %v", re, err)
	}
	for _, name := range []string{"a", "b", "c"} {
		l := w.one()
		if l.StepName != name {
			t.Errorf("%s, want %s", l.StepName, name)
		}
		w.finish(l, exit(0))
	}
	if got, want := statuses(r.run(run.ID)), "failed a=succeeded/2 b=succeeded/4 c=succeeded/4 d=failed/1 e=cancelled/1 f=cancelled/1"; got != want {
		t.Error(got)
	}
	if got, want := len(r.audited("step.retry"))*100+len(r.audited("run.retry"))*10+len(r.audited("run.rerun")), 111; got != want {
		t.Errorf("audited %d", got)
	}
}

// A cancelled run stays so, unless the whole of it is run again.
func TestRetryCancelled(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	if _, err := r.user.Cancel(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{}, ""); !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), "cancelled") {
		t.Error(err)
	}
	if _, err := r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{All: true}, ""); err != nil {
		t.Fatal(err)
	}
	w.finish(w.one(), exit(0))
	if got := statuses(r.run(run.ID)); got != "succeeded a=succeeded/2" {
		t.Error(got)
	}
}

// it is gone, a step that would miss it is not run again alone.
func TestRetryNeedsTheWorkspace(t *testing.T) {
	t.Parallel()
	for keep, gone := range map[time.Duration]bool{time.Hour: false, 0: true} {
		t.Run("kept for "+keep.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, withoutBreakers(t), func(c *api.Config) { c.WorkspaceKeep = keep })
			w := r.worker("host")
			run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:fail","retry":{"attempts":2},"depends_on":["a"]},{"name":"c","tool":"test:fail","workspace":"step","retry":{"attempts":2}}]`)
			for r.run(run.ID).Run.EndedAt == nil {
				if l := w.one(); l.StepName == "a" {
					w.finish(l, exit(0))
				} else {
					w.finish(l, exit(1))
				}
			}
			answer, err := w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, Runs: []string{run.ID}})
			if err != nil || slices.Contains(answer.Ended, run.ID) != gone {
				t.Fatalf("%+v %v", answer, err)
			}
			b, c := r.run(run.ID).Steps[1].ID, r.run(run.ID).Steps[2].ID
			if _, err := r.user.RetryStep(t.Context(), run.ID, c, ""); err != nil {
				t.Errorf("a step with a workspace of its own: %v", err)
			}
			w.finish(w.one(), exit(0))
			_, err = r.user.RetryStep(t.Context(), run.ID, b, "")
			if gone && (!step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), "workspace")) || !gone && err != nil {
				t.Fatal(err)
			}
			if gone {
				if _, err := r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{All: true}, ""); err != nil {
					t.Fatal(err)
				}
			}
			if answer, err = w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, Runs: []string{run.ID}}); err != nil || len(answer.Ended) != 0 {
				t.Errorf("its workspace would go while it runs: %+v %v", answer, err)
			}
			for r.run(run.ID).Run.EndedAt == nil {
				w.finish(w.one(), exit(0))
			}
			if answer, err = w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, Runs: []string{run.ID}}); err != nil || !slices.Contains(answer.Ended, run.ID) {
				t.Errorf("%+v %v", answer, err)
			}
		})
	}
}

// A run that is run again as a whole begins with an empty workspace, also while
// the one of before is still there; a step that is tried again alone does not.
func TestAllBeginsEmpty(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t), func(c *api.Config) { c.WorkspaceKeep = time.Hour })
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	w.finish(w.one(), exit(0))
	w.finish(w.one(), exit(1))
	if _, err := r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{}, ""); err != nil {
		t.Fatal(err)
	}
	l := w.one()
	if l.StepName != "b" || l.WorkspaceNo != 1 {
		t.Errorf("b alone: %+v", l)
	}
	w.finish(l, exit(1))
	if _, err := r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{All: true}, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		l := w.one()
		if l.StepName != name || l.WorkspaceNo != 2 {
			t.Errorf("%s of all: %+v", name, l)
		}
		w.finish(l, exit(0))
	}
	if got := statuses(r.run(run.ID)); got != "succeeded a=succeeded/2 b=succeeded/3" {
		t.Error(got)
	}
}

// Nothing needs a body, and a broken one is refused.
func TestRetryBodies(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.die(w, failing)
	e := r.dead(wire.DeadFilter{})[0]
	for _, path := range []string{"/api/runs/" + run.ID + "/retry", "/api/dlq/" + e.ID + "/requeue"} {
		for body, status := range map[string]int{`{`: 400, `{"x":1}`: 422, `7`: 422, strings.Repeat(" ", 3<<20): 413} {
			if resp, raw := r.call("POST", path, r.keys["acme user"], []byte(body)); resp.StatusCode != status {
				t.Errorf("%s %.10s: %d %s", path, body, resp.StatusCode, raw)
			}
		}
	}
	if resp, raw := r.call("POST", "/api/dlq/"+e.ID+"/requeue", r.keys["acme user"], nil); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, raw)
	}
	for range 2 {
		w.finish(w.one(), exit(1))
	}
	if resp, raw := r.call("POST", "/runs/"+run.ID+"/retry", r.keys["acme user"], nil); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, raw)
	}
	w.finish(w.one(), exit(0))
}

// What the tenant may have has changed since: that counts for what is edited.
func TestRequeueEditedWithinPolicy(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	r.die(w, `[{"name":"a","tool":"test:fail","timeout":30000,"retry":{"attempts":2,"backoff_ms":1}}]`)
	e := r.dead(wire.DeadFilter{})[0]
	if err := api.SetTenantCeiling(t.Context(), r.db.Admin, "acme", wire.TenantCeiling{TimeoutMS: 1000}, false); err != nil {
		t.Fatal(err)
	}
	resp, raw := r.call("POST", "/api/dlq/"+e.ID+"/requeue", r.keys["acme user"], []byte(`{"inputs":{"x":1}}`))
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(raw), `"location":"body.timeout"`) || !strings.Contains(string(raw), `"detail":"body.timeout: `) {
		t.Errorf("%d %s", resp.StatusCode, raw)
	}
	if err := api.SetTenantCeiling(t.Context(), r.db.Admin, "acme", wire.TenantCeiling{TimeoutMS: 1000}, true); err != nil {
		t.Fatal(err)
	}
	if _, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{Inputs: []byte(`{"x":1}`)}, ""); err != nil {
		t.Fatal(err)
	}
	l := w.one()
	if l.TimeoutMS != 1000 {
		t.Errorf("%+v", l)
	}
	w.finish(l, exit(0))
}
