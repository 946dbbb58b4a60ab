package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// audited are the actions of this kind, with their targets.
func (r *rig) audited(action string) []string {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.db.Admin)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close(r.t.Context()) }()
	rows, err := conn.Query(r.t.Context(), "SELECT target FROM nofx.audit_log WHERE action = $1 ORDER BY id", action)
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func statuses(d wire.RunDetail) string {
	out := string(d.Run.Status)
	for _, s := range d.Steps {
		out += fmt.Sprintf(" %s=%s/%d", s.Name, s.Status, s.Generation)
	}
	return out
}

// A requeued step is a new generation; what was cancelled because of it goes on
// after it, the run ends anew, and the entry stays as history.
func TestRequeue(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.die(w, `[{"name":"a","tool":"test:fail","retry":{"attempts":2,"backoff_ms":1}},{"name":"b","tool":"test:echo","depends_on":["a"]},
		{"name":"c","tool":"test:echo","depends_on":["b"]}]`)
	e := r.dead(wire.DeadFilter{})[0]
	if got, want := statuses(r.run(run.ID)), "failed a=failed/1 b=cancelled/1 c=cancelled/1"; got != want {
		t.Fatal(got)
	}
	re, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{}, "")
	want := wire.Reopened{RunID: run.ID, Status: step.RunRunning, Steps: []wire.ReopenedStep{{ID: e.StepID, Name: "a", Status: step.StepQueued, Generation: 2}}}
	if err != nil || len(re.Steps) != 3 || re.Steps[1].Status != step.StepWaiting || re.Steps[2].Generation != 2 {
		t.Fatalf("%+v %v", re, err)
	}
	re.Steps = re.Steps[:1]
	if diff := cmp.Diff(want, re); diff != "" {
		t.Error(diff)
	}
	if got, want := statuses(r.run(run.ID)), "running a=queued/2 b=waiting/2 c=waiting/2"; got != want {
		t.Error(got)
	}
	if _, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{}, ""); !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), "is requeued already") {
		t.Errorf("twice: %v", err)
	}
	if _, err := r.user.DiscardDead(t.Context(), e.ID, ""); !step.Is(err, step.KindConflict) {
		t.Errorf("discarded after it was requeued: %v", err)
	}
	for _, name := range []string{"a", "b", "c"} {
		l := w.one()
		if l.StepName != name || l.Generation != 2 || l.Attempt != 1 {
			t.Fatalf("%+v", l)
		}
		w.finish(l, exit(0), name)
	}
	d := r.run(run.ID)
	if got, want := statuses(d), "succeeded a=succeeded/2 b=succeeded/2 c=succeeded/2"; got != want {
		t.Error(got)
	}
	if got := r.dead(wire.DeadFilter{State: client.AnyState}); len(got) != 1 || got[0].State != wire.DeadRequeued || got[0].ResolvedAt == nil || got[0].ResolvedBy == "" {
		t.Errorf("%+v", got)
	}
	types := r.types(run.ID)
	if tail := types[slices.Index(types, step.EventRunResumed):]; !slices.Equal(tail[:4], []step.EventType{"run.resumed", "step.enqueued", "step.waiting", "step.waiting"}) || tail[len(tail)-1] != step.EventRunSucceeded {
		t.Errorf("%v", tail)
	}
	if got := r.audited("dlq.requeue"); !slices.Equal(got, []string{e.ID}) {
		t.Errorf("%v", got)
	}
}

// A generation that fails again has an entry of its own.
func TestEachGenerationHasOneEntry(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.die(w, failing)
	for generation := 1; generation <= 3; generation++ {
		all := r.dead(wire.DeadFilter{State: client.AnyState})
		open := r.dead(wire.DeadFilter{})
		if len(all) != generation || len(open) != 1 || open[0].Generation != generation || open[0].Attempts != 2 {
			t.Fatalf("generation %d: %+v", generation, all)
		}
		if _, err := r.user.RequeueDead(t.Context(), open[0].ID, wire.RequeueDead{}, ""); err != nil {
			t.Fatal(err)
		}
		for r.run(run.ID).Run.EndedAt == nil {
			w.finish(w.one(), exit(1))
		}
	}
}

// Edited inputs go through the handler like those of a submission, and so does
// another driver.
func TestRequeueEdited(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host", offering("local", able...), offering("weak", "cap.cpu"), offering("other", able...))
	run := r.submit(`[{"name":"a","tool":"bash","env_allowed":["FEED"],"inputs":{"command":"exit 1","env":{"FEED":"7"}},"retry":{"attempts":2}}]`)
	for range 2 {
		w.finish(w.one(), exit(1))
	}
	e := r.dead(wire.DeadFilter{})[0]
	key := r.run(run.ID).Steps[0].IdempotencyKey
	for body, want := range map[string]string{
		`{"inputs":{"command":""}}`:                                         "body.inputs.command",
		`{"inputs":{"command":"true","cwd":"../../etc"}}`:                   "body.inputs.cwd",
		`{"inputs":{"command":"true","colour":"red"}}`:                      "body.inputs",
		`{"inputs":{"command":"true","env":{"PATHS":"x"}}}`:                 "body.inputs.env.PATHS",
		`{"inputs":{"command":"true","_policy":{"env_allowed":["PATHS"]}}}`: "body.inputs._policy.env_allowed",
		`{"inputs":{"command":"true","timeout":86400001}}`:                  "body.inputs.timeout",
		`{"inputs":[1]}`:                      "body.inputs",
		`{"inputs":null,"driver":"nosuch"}`:   "body.inputs",
		`{"driver":"nosuch"}`:                 "body.driver",
		`{"driver":"weak"}`:                   "body.driver",
		`{"drivers":"local"}`:                 "body.drivers",
		`{"driver":"local","driver":"other"}`: "body.driver",
	} {
		resp, raw := r.call("POST", "/api/dlq/"+e.ID+"/requeue", r.keys["acme user"], []byte(body))
		var p wire.Problem
		if err := json.Unmarshal(raw, &p); err != nil || resp.StatusCode != http.StatusUnprocessableEntity || len(p.Errors) == 0 || !slices.ContainsFunc(p.Errors, func(f step.FieldError) bool { return f.Location == want }) {
			t.Errorf("%s: %d %s", body, resp.StatusCode, raw)
		}
	}
	if d := r.run(run.ID); statuses(d) != "failed a=failed/1" || len(r.dead(wire.DeadFilter{})) != 1 {
		t.Fatalf("a refusal changed %+v", d)
	}
	if _, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{Inputs: json.RawMessage(`{"command":"exit 0","env":{"FEED":"8"}}`), Driver: "other"}, ""); err != nil {
		t.Fatal(err)
	}
	d := r.run(run.ID)
	if s := d.Steps[0]; s.Driver != "other" || string(s.Inputs) != `{"command":"exit 0","env":{"FEED":"[sealed]"}}` || s.IdempotencyKey == key || !strings.HasPrefix(s.IdempotencyKey, run.ID+":a:") {
		t.Errorf("%+v", s)
	}
	l := w.one()
	if l.Driver != "other" || l.Command.Argv[2] != "exit 0" || l.Command.Env["FEED"] != "8" {
		t.Errorf("%+v", l)
	}
	w.finish(l, exit(1))
	w.finish(w.one(), exit(1))
	// Each entry has the inputs that its generation ran with.
	for _, open := range r.dead(wire.DeadFilter{State: client.AnyState}) {
		full, err := r.user.DeadStep(t.Context(), open.ID)
		want := map[int]string{1: `{"command":"exit 1","env":{"FEED":"[sealed]"}}`, 2: `{"command":"exit 0","env":{"FEED":"[sealed]"}}`}[open.Generation]
		if err != nil || string(full.Inputs) != want {
			t.Errorf("%+v %v", full, err)
		}
	}
	// Only another driver: the inputs stay.
	open := r.dead(wire.DeadFilter{})[0]
	if _, err := r.user.RequeueDead(t.Context(), open.ID, wire.RequeueDead{Driver: "local"}, ""); err != nil {
		t.Fatal(err)
	}
	if l := w.one(); l.Driver != "local" || l.Command.Argv[2] != "exit 0" || l.Command.Env["FEED"] != "8" {
		t.Errorf("%+v", l)
	}
}

// Inputs with the keys of older clients are edited, too.
func TestRequeueOldInputs(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host", offering("local", able...), offering("other", able...))
	run := r.submit(`[{"name":"a","tool":"test:fail","inputs":{"_driver":"local","_policy":{"tools_allowed":["test:fail"]},"feed":1},"retry":{"attempts":2,"backoff_ms":1}}]`)
	w.finish(w.one(), exit(1))
	w.finish(w.one(), exit(1))
	e := r.dead(wire.DeadFilter{})[0]
	if _, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{Inputs: json.RawMessage(`{"_driver":"other","feed":1}`)}, ""); !step.Is(err, step.KindInvalid) {
		t.Errorf("%v", err)
	}
	if _, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{Driver: "other"}, ""); err != nil {
		t.Fatal(err)
	}
	if s := r.run(run.ID).Steps[0]; s.Driver != "other" || !strings.Contains(string(s.Inputs), `"_driver":"local"`) {
		t.Errorf("%+v", s)
	}
	w.finish(w.one(), exit(0))
}

// Of many who press the button at once one wins, and the step runs once.
func TestRequeueRaces(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	for range 5 {
		run := r.die(w, failing)
		e := r.dead(wire.DeadFilter{})[0]
		var wg sync.WaitGroup
		results := make([]error, 8)
		for i := range results {
			wg.Go(func() {
				switch i {
				case 0:
					_, results[i] = r.user.RetryStep(t.Context(), run.ID, e.StepID, "")
				case 1:
					_, results[i] = r.user.DiscardDead(t.Context(), e.ID, "")
				default:
					_, results[i] = r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{}, "")
				}
			})
		}
		wg.Wait()
		won := 0
		for i, err := range results {
			switch {
			case err == nil && i != 1:
				won++
			case err != nil && !step.Is(err, step.KindConflict):
				t.Errorf("%d: %v", i, err)
			}
		}
		d := r.run(run.ID)
		if won == 0 && results[1] != nil || won > 1 || won == 1 && d.Steps[0].Generation != 2 {
			t.Fatalf("%d won: %v, %s", won, results, statuses(d))
		}
		if leases := w.claim(8, 0); len(leases) != won {
			t.Fatalf("%d leases", len(leases))
		} else if won == 1 {
			w.finish(leases[0], exit(0))
		}
	}
}

// A cancel and a requeue: whichever comes second sees the first, and nothing of
// a cancelled run begins again.
func TestRequeueRacesCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	both := 0
	for range 8 {
		run := r.submit(`[{"name":"a","tool":"test:fail","retry":{"attempts":2}},{"name":"b","tool":"test:echo","workspace":"step"}]`)
		var b wire.Lease
		for n := 0; n < 3; n++ {
			if l := w.one(); l.StepName == "a" {
				w.finish(l, exit(1))
			} else {
				b = l
			}
		}
		e := r.dead(wire.DeadFilter{})[0]
		var wg sync.WaitGroup
		var cancelled, requeued error
		wg.Go(func() { _, cancelled = r.user.Cancel(t.Context(), run.ID) })
		wg.Go(func() { _, requeued = r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{}, "") })
		wg.Wait()
		if cancelled != nil || requeued != nil && !step.Is(requeued, step.KindConflict) {
			t.Fatalf("%v, %v", cancelled, requeued)
		}
		if requeued == nil {
			both++
		} else if !strings.Contains(requeued.Error(), "the run was cancelled") {
			t.Error(requeued)
		}
		if leases := w.claim(8, 0); len(leases) != 0 {
			t.Errorf("began in a cancelled run: %+v", leases)
		}
		w.finish(b, cause(step.CauseCancelled))
		if d := r.run(run.ID); d.Run.Status != step.RunCancelled {
			t.Errorf("%s", statuses(d))
		}
		if requeued != nil {
			if _, err := r.user.DiscardDead(t.Context(), e.ID, ""); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("the requeue came first %d times of 8", both)
}

// A repeat with the same key is the same request.
func TestRequeueOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.die(w, failing)
	e := r.dead(wire.DeadFilter{})[0]
	first, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{}, "requeue-1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{}, "requeue-1")
	if diff := cmp.Diff(first, again); diff != "" || err != nil {
		t.Error(diff, err)
	}
	resp, _ := r.call("POST", "/api/dlq/"+e.ID+"/requeue", r.keys["acme user"], []byte(`{}`), "X-Idempotency-Key", "requeue-1")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Idempotency-Replayed") != "true" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if _, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{Driver: "local"}, "requeue-1"); !step.Is(err, step.KindInvalid) {
		t.Errorf("another body: %v", err)
	}
	if resp, raw := r.call("POST", "/api/dlq/"+e.ID+"/requeue", r.keys["acme user"], nil, "X-Idempotency-Key", "short"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("%d %s", resp.StatusCode, raw)
	}
	w.finish(w.one(), exit(0))
	if leases := w.claim(8, 0); len(leases) != 0 || statuses(r.run(run.ID)) != "succeeded a=succeeded/2" {
		t.Errorf("%+v", leases)
	}
}

// Many at once: first a look, then the deed; what cannot be is told.
func TestBulk(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host", offering("local", able...), offering("other", able...))
	var runs []string
	for range 4 {
		runs = append(runs, r.die(w, failing).ID)
	}
	all := r.dead(wire.DeadFilter{})
	if _, err := r.user.RequeueDead(t.Context(), all[3].ID, wire.RequeueDead{}, ""); err != nil {
		t.Fatal(err)
	}
	w.finish(w.one(), exit(0))
	ids := []string{all[0].ID, all[1].ID, all[2].ID}
	match := wire.ResolveMany{Match: &wire.DeadFilter{Tool: "test:fail"}, DryRun: true}
	for _, do := range []func() (wire.Resolved, error){
		func() (wire.Resolved, error) { return r.user.RequeueMany(t.Context(), match, "") },
		func() (wire.Resolved, error) { return r.user.DiscardMany(t.Context(), match, "") },
	} {
		if got, err := do(); err != nil || !got.DryRun || !slices.Equal(got.Done, ids) || len(got.Refused) != 0 || got.More {
			t.Errorf("%+v %v", got, err)
		}
	}
	if got := r.dead(wire.DeadFilter{}); len(got) != 3 || statuses(r.run(runs[0])) != "failed a=failed/1" && statuses(r.run(runs[0])) != "succeeded a=succeeded/2" {
		t.Fatalf("a dry run did something: %+v", got)
	}
	got, err := r.user.DiscardMany(t.Context(), wire.ResolveMany{IDs: []string{all[2].ID, all[3].ID, "dead_0"}}, "")
	if err != nil || !slices.Equal(got.Done, ids[2:]) || len(got.Refused) != 2 || !strings.Contains(got.Refused[0].Message, "requeued already") || !strings.Contains(got.Refused[1].Message, "no entry") {
		t.Errorf("%+v %v", got, err)
	}
	got, err = r.user.RequeueMany(t.Context(), wire.ResolveMany{Match: &wire.DeadFilter{}, Driver: "other"}, "bulk-requeue-1")
	if err != nil || !slices.Equal(got.Done, ids[:2]) {
		t.Errorf("%+v %v", got, err)
	}
	again, err := r.user.RequeueMany(t.Context(), wire.ResolveMany{Match: &wire.DeadFilter{}, Driver: "other"}, "bulk-requeue-1")
	if diff := cmp.Diff(got, again); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for range 2 {
		l := w.one()
		if l.Driver != "other" {
			t.Errorf("%+v", l)
		}
		w.finish(l, exit(0))
	}
	if left := r.dead(wire.DeadFilter{}); len(left) != 0 {
		t.Errorf("%+v", left)
	}
	if requeued, discarded := r.audited("dlq.requeue"), r.audited("dlq.discard"); len(requeued) != 3 || !slices.Equal(discarded, ids[2:]) {
		t.Errorf("%v %v", requeued, discarded)
	}
	for body, want := range map[string]string{
		`{}`: "body.ids", `{"ids":["dead_1"],"match":{}}`: "body.ids", `{"ids":["x"]}`: "body.ids[0]", `{"ids":["dead_1","dead_1"]}`: "body.ids[1]",
		`{"match":{"cause":"hunger"}}`: "body.match.cause", `{"match":{"state":"discarded"}}`: "body.match.state", `{"match":{"since":"x"}}`: "body.match.since",
		`{"match":{"tool":"` + strings.Repeat("x", 201) + `"}}`: "body.match.tool", `{"match":{"colour":"red"}}`: "body.match.colour",
		`{"ids":["dead_1"],"ids":["dead_2"]}`: "body.ids",
	} {
		for _, path := range []string{"requeue", "discard"} {
			resp, raw := r.call("POST", "/api/dlq/"+path, r.keys["acme user"], []byte(body))
			if resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(raw), `"location":"`+want+`"`) {
				t.Errorf("%s %s: %d %s", path, body, resp.StatusCode, raw)
			}
		}
	}
}

// The steps of one run are tried again together.
func TestBulkOfOneRun(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.die(w, `[{"name":"a","tool":"test:fail","retry":{"attempts":2}},{"name":"b","tool":"test:fail","retry":{"attempts":2}},{"name":"c","tool":"test:echo","depends_on":["a","b"]}]`)
	if got, err := r.user.RequeueMany(t.Context(), wire.ResolveMany{Match: &wire.DeadFilter{}}, ""); err != nil || len(got.Done) != 2 {
		t.Fatalf("%+v %v", got, err)
	}
	if got, want := statuses(r.run(run.ID)), "running a=queued/2 b=queued/2 c=waiting/2"; got != want {
		t.Fatal(got)
	}
	for range 3 {
		w.finish(w.one(), exit(0))
	}
	if got := r.run(run.ID); got.Run.Status != step.RunSucceeded {
		t.Error(statuses(got))
	}
}

// While its host keeps it, a failed run's workspace is there for its steps; when
