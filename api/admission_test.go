package api_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A driver without a capability that a step needs does not get it: the step
// ends, and says what was missing. With all of them it does.
func TestCapabilitiesDecide(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	const steps = `[{"name":"a","tool":"exec","inputs":{"argv":["cat","x"],"files":[{"path":"x","content":"y"}]}},` +
		`{"name":"b","tool":"test:echo","depends_on":["a"]}]`
	for i, lacking := range able {
		w.drivers = []wire.DriverInfo{offering("local", slices.Delete(slices.Clone(able), i, i+1)...)}
		w.register("host")
		run := r.submit(steps)
		if got := w.claim(4, 0); len(got) != 0 {
			t.Fatalf("without %s it got %+v", lacking, got)
		}
		d := r.run(run.ID)
		a := d.Steps[0]
		if d.Run.Status != step.RunFailed || a.Status != step.StepFailed || a.Verdict == nil || a.Verdict.Cause != step.CauseDriverError ||
			!strings.HasSuffix(a.Verdict.Message, "the driver local lacks the capability "+lacking) || d.Steps[1].Status != step.StepCancelled {
			t.Errorf("without %s: %+v", lacking, d)
		}
		want := []step.EventType{step.EventRunCreated, step.EventStepEnqueued, step.EventStepFinished, step.EventStepFailed, step.EventStepDead,
			step.EventStepCancelled, step.EventRunFailed}
		if diff := cmp.Diff(want, r.types(run.ID)); diff != "" {
			t.Errorf("without %s: %s", lacking, diff)
		}
	}
	w.drivers = []wire.DriverInfo{offering("local", able...)}
	w.register("host")
	run := r.submit(steps)
	w.finish(w.one(), exit(0))
	w.finish(w.one(), exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
}

// What one worker cannot do another one gets, whichever asks first; when there is
// no such other, or the run is bound to that one, the step ends.
func TestCapabilitiesOfOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lesser := r.worker("lesser", offering("local", slices.DeleteFunc(slices.Clone(able), func(c string) bool { return c == "files" })...))
	better := r.worker("better", offering("local", able...))
	const files = `{"name":"a","tool":"exec","inputs":{"argv":["cat","x"],"files":[{"path":"x","content":"y"}]}`
	run := r.submit(`[` + files + `},{"name":"b","tool":"test:echo","workspace":"step"}]`)
	got := lesser.claim(4, 0)
	if len(got) != 1 || got[0].StepName != "b" {
		t.Fatalf("the lesser one got %+v", got)
	}
	lesser.finish(got[0], exit(0))
	if again := lesser.claim(4, 0); len(again) != 0 {
		t.Errorf("and then %+v", again)
	}
	if got, want := r.run(run.ID).Steps[0].WaitingFor, "a worker whose driver local has the capability files"; got != want {
		t.Errorf("it waits for %q, want %q", got, want)
	}
	l := better.one()
	if l.StepName != "a" || l.Attempt != 1 {
		t.Errorf("the better one got %+v", l)
	}
	better.finish(l, exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}

	// What shares a workspace with a step that the lesser one has done, and not
	// saved, is nobody else's.
	bound := r.submit(`[{"name":"z","tool":"test:echo"},` + files + `,"depends_on":["z"]}]`)
	got = lesser.claim(4, 0)
	if len(got) != 1 || got[0].StepName != "z" {
		t.Fatalf("the lesser one got %+v", got)
	}
	lesser.finish(got[0], exit(0))
	if again := lesser.claim(4, 0); len(again) != 0 {
		t.Errorf("and then %+v", again)
	}
	if d := r.run(bound.ID); d.Run.Status != step.RunFailed || d.Steps[1].Verdict == nil ||
		!strings.Contains(d.Steps[1].Verdict.Message, "lacks the capability files") || !strings.Contains(d.Steps[1].Verdict.Message, "not all that is in it is saved") {
		t.Errorf("%+v", d)
	}

	// When the better one is not healthy any more, the lesser one's word decides.
	better.drivers = []wire.DriverInfo{{Name: "local", Message: "ill"}}
	better.register("better")
	alone := r.submit(`[` + files + `}]`)
	if got := lesser.claim(4, 0); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	if d := r.run(alone.ID); d.Run.Status != step.RunFailed {
		t.Errorf("%+v", d)
	}
}

// A run that is bound to a worker which cannot do its next step goes on with one
// that can, once nothing of it is at work there and all that it left is saved.
func TestRunLeavesWhoCannotGoOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lesser := r.worker("lesser", offering("local", slices.DeleteFunc(slices.Clone(able), func(c string) bool { return c == "files" })...))
	better := r.worker("better", offering("local", able...))
	const files = `{"name":"a","tool":"exec","inputs":{"argv":["cat","x"],"files":[{"path":"x","content":"y"}]},"depends_on":["z"]}`
	first := func() wire.Lease {
		t.Helper()
		got := lesser.claim(4, 0)
		if len(got) != 1 || got[0].StepName != "z" {
			t.Fatalf("the lesser one got %+v", got)
		}
		return got[0]
	}
	moved := func(run string, layer int) {
		t.Helper()
		events, err := r.user.Timeline(t.Context(), run)
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(events, func(e step.Event) bool { return e.Type == step.EventRunMoved })
		if at < 0 || events[at].Payload["layer"] != float64(layer) || events[at].Payload["from"] != lesser.id || !strings.Contains(fmt.Sprint(events[at].Payload["reason"]), "lacks the capability files") {
			t.Errorf("%v", r.types(run))
		}
	}

	run := r.submit(`[{"name":"z","tool":"test:echo"},` + files + `]`)
	z := first()
	lesser.finish(z, lesser.save(z, 1, true, "all of it"))
	if again := lesser.claim(4, 0); len(again) != 0 {
		t.Errorf("and then %+v", again)
	}
	a := better.one()
	if a.StepName != "a" || a.Attempt != 1 || a.WorkspaceNo != 2 || a.LastLayer != 1 || len(a.Layers) != 1 {
		t.Errorf("the better one got %+v", a)
	}
	better.finish(a, exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
	moved(run.ID, 1)

	// What is at work there is not left behind, and what has to wait for it is not
	// refused.
	run = r.submit(`[{"name":"z","tool":"test:echo"},{"name":"y","tool":"test:echo"},` + files + `]`)
	both := lesser.claim(4, 0)
	if len(both) != 2 {
		t.Fatalf("the lesser one got %+v", both)
	}
	z, y := both[0], both[1]
	if z.StepName != "z" {
		z, y = y, z
	}
	lesser.finish(z, lesser.save(z, 1, true, "all of that"))
	if again := lesser.claim(4, 0); len(again) != 0 {
		t.Errorf("and then %+v", again)
	}
	if got := better.claim(4, 0); len(got) != 0 {
		t.Fatalf("the better one got %+v", got)
	}
	if d := r.run(run.ID); d.Run.Status != step.RunRunning || d.Steps[2].Status != step.StepQueued ||
		!strings.HasPrefix(d.Steps[2].WaitingFor, "a worker whose driver local has the capability files: that of the worker with the run's workspace lacks it") {
		t.Fatalf("%+v", d)
	}
	lesser.finish(y, lesser.save(y, 2, false, "and of that"))
	var got []wire.Lease
	r.eventually("it goes on", func() bool {
		if again := lesser.claim(4, 0); len(again) != 0 {
			t.Errorf("the lesser one got %+v", again)
		}
		got = better.claim(4, 0)
		return len(got) > 0
	})
	if a := got[0]; a.StepName != "a" || len(a.Layers) != 2 {
		t.Errorf("the better one got %+v", a)
	}
	better.finish(got[0], exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
	moved(run.ID, 2)
}

// A step that has to wait for what is at work in its run's workspace goes on as
// soon as that has ended, through whichever replica.
func TestRunIsLetGoAtOnce(t *testing.T) {
	t.Parallel()
	const soon = 7 * time.Second // between two looks are 10
	for name, replicas := range map[string]int{"one replica": 1, "two replicas": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			lesser := r.worker("lesser", offering("local", slices.DeleteFunc(slices.Clone(able), func(c string) bool { return c == "files" })...))
			key := map[string]string{"acme worker": r.keys["acme worker"]}
			better := r.worker("better", offering("local", able...))
			shipper := *lesser
			if replicas == 2 {
				second := *r
				second.log, second.keys = &buffer{}, key
				second.start()
				defer func() {
					if err := second.stop(); err != nil {
						t.Error(err)
					}
				}()
				shipper.r, shipper.Client = &second, second.again("acme worker")
			}
			r.submit(`[{"name":"z","tool":"test:echo"},{"name":"y","tool":"test:echo"},` +
				`{"name":"a","tool":"exec","inputs":{"argv":["cat","x"],"files":[{"path":"x","content":"y"}]},"depends_on":["z"]}]`)
			both := lesser.claim(4, 0)
			if len(both) != 2 {
				t.Fatalf("the lesser one got %+v", both)
			}
			z, y := both[0], both[1]
			if z.StepName != "z" {
				z, y = y, z
			}
			lesser.finish(z, lesser.save(z, 1, true, "all of that"))
			if again := lesser.claim(4, 0); len(again) != 0 { // the step is bound
				t.Fatalf("and then %+v", again)
			}
			waits := make(chan []wire.Lease, 1)
			go func() { waits <- lesser.claimAs("waits", 4, 20*time.Second) }()
			shipper.finish(y, lesser.save(y, 2, false, "and of that"))
			begun := time.Now()
			if got := better.claim(4, 20*time.Second); len(got) != 1 || got[0].StepName != "a" || len(got[0].Layers) != 2 {
				t.Fatalf("the better one got %+v", got)
			} else if took := time.Since(begun); took > soon {
				t.Errorf("it went on after %v", took)
			}
			if got := <-waits; len(got) != 0 {
				t.Errorf("the lesser one got %+v", got)
			}
		})
	}
}

// A worker that could do the step, but is too old to put the run's workspace
// together, does not count: the run is not moved for it, over and over.
func TestRunIsNotMovedToWhoCannotRestore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lesser := r.worker("lesser", offering("local", slices.DeleteFunc(slices.Clone(able), func(c string) bool { return c == "files" })...))
	old := r.worker("old", offering("local", able...))
	old.old = true
	if got := old.claim(4, 0); len(got) != 0 {
		t.Fatalf("the old one got %+v", got)
	}
	const files = `{"name":"a","tool":"exec","inputs":{"argv":["cat","x"],"files":[{"path":"x","content":"y"}]}`
	run := r.submit(`[{"name":"z","tool":"test:echo"},` + files + `,"depends_on":["z"]}]`)
	z := lesser.one()
	if z.StepName != "z" {
		t.Fatalf("the lesser one got %+v", z)
	}
	lesser.finish(z, lesser.save(z, 1, true, "all of it"))
	if again := lesser.claim(4, 0); len(again) != 0 {
		t.Errorf("and then %+v", again)
	}
	if got := old.claim(4, 0); len(got) != 0 {
		t.Errorf("the old one got %+v", got)
	}
	if d := r.run(run.ID); d.Run.Status != step.RunFailed || d.Steps[1].Verdict == nil ||
		!strings.Contains(d.Steps[1].Verdict.Message, "lacks the capability files") {
		t.Errorf("%+v", d)
	}
	if slices.Contains(r.types(run.ID), step.EventRunMoved) {
		t.Errorf("it was moved: %v", r.types(run.ID))
	}

	// What has no workspace to put together it does.
	run = r.submit(`[` + files + `}]`)
	if got := lesser.claim(4, 0); len(got) != 0 {
		t.Errorf("the lesser one got %+v", got)
	}
	old.finish(old.one(), exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
	// And with a newer nofxd it is as good as any.
	old.old = false
	if got := old.claim(4, 0); len(got) != 0 {
		t.Errorf("it got %+v", got)
	}
	run = r.submit(`[{"name":"z","tool":"test:echo"},` + files + `,"depends_on":["z"]}]`)
	z = lesser.one()
	lesser.finish(z, lesser.save(z, 1, true, "all of it"))
	if again := lesser.claim(4, 0); len(again) != 0 {
		t.Errorf("and then %+v", again)
	}
	if a := old.one(); a.RunID != run.ID || len(a.Layers) != 1 {
		t.Errorf("%+v", a)
	}
}

// What one claim takes is judged step by step; a claim of which nothing was
// left is as good as new.
func TestRefusedStepsSpareTheOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host", offering("local", able...), offering("lesser", "cap.walltime", "net.none"))
	r.submit(`[{"name":"a","tool":"test:echo","driver":"lesser"}]`)
	got := make(chan []wire.Lease, 1)
	go func() { got <- w.claimAs("claim-x", 4, 10*time.Second) }() // the refused one leaves it waiting
	select {
	case l := <-got:
		t.Fatalf("got %+v", l)
	case <-time.After(300 * time.Millisecond):
	}
	good := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	leases := <-got
	if len(leases) != 1 || leases[0].RunID != good.ID {
		t.Fatalf("got %+v", leases)
	}
	w.finish(leases[0], exit(0))

	mixed := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","driver":"lesser"},{"name":"c","tool":"test:echo"}]`)
	leases = w.claimAs("claim-y", 4, 0)
	if again := w.claimAs("claim-y", 4, 0); len(leases) != 2 || len(again) != 2 {
		t.Fatalf("got %+v, then %+v", leases, again)
	}
	for _, l := range leases {
		w.finish(l, exit(0))
	}
	d := r.run(mixed.ID)
	if d.Run.Status != step.RunFailed || d.Steps[0].Status != step.StepSucceeded || d.Steps[1].Status != step.StepFailed || d.Steps[2].Status != step.StepSucceeded {
		t.Errorf("%+v", d)
	}
}

// A claim that has to refuse a step does not wait for the step's run, which
// somebody is changing: it takes nothing, and tries again when that is over.
func TestRefusalKeepsTheOrderOfLocks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host", offering("local", able...), offering("lesser", "net.none"))
	run := r.submit(`[{"name":"a","tool":"test:echo","workspace":"step"},{"name":"b","tool":"test:echo","driver":"lesser"}]`)
	w.drivers = w.drivers[:1]
	w.finish(w.one(), exit(0))
	w.drivers = append(w.drivers, offering("lesser", "net.none"))

	conn, err := pgx.Connect(t.Context(), r.db.System)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT 1 FROM nofx.run WHERE id = $1 FOR NO KEY UPDATE", run.ID); err != nil {
		t.Fatal(err)
	}
	got := make(chan []wire.Lease, 1)
	go func() { got <- w.claim(1, 0) }()
	select {
	case l := <-got:
		t.Fatalf("got %+v", l)
	case <-time.After(500 * time.Millisecond):
	}
	// The lock of the step is free meanwhile: who changes the run gets to it.
	if _, err := tx.Exec(t.Context(), "SET LOCAL lock_timeout = '5s'; UPDATE nofx.step SET tries = tries WHERE run_id = '"+run.ID+"' AND name = 'b'"); err != nil {
		t.Errorf("the step: %v", err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l := <-got; len(l) != 0 {
		t.Errorf("got %+v", l)
	}
	d := r.until(run.ID, func(d wire.RunDetail) bool { // by this claim or, where that gave up first, by the next
		if d.Run.Status == step.RunFailed {
			return true
		}
		if l := w.claim(1, 0); len(l) != 0 {
			t.Fatalf("got %+v", l)
		}
		return false
	})
	if d.Steps[1].Verdict == nil || d.Steps[1].Attempt != 1 {
		t.Errorf("%+v", d)
	}
}

// A driver that a worker claims for gets nothing before the worker has told
// that it is well and what it can do.
func TestClaimForAnUntoldDriver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host", offering("kettle", able...), wire.DriverInfo{Name: "local", Message: "starting"})
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	out, err := w.Claim(t.Context(), wire.ClaimRequest{WorkerID: w.id, Incarnation: w.incarnation, ClaimID: "claim-x", Max: 1, Drivers: []string{"local"}})
	if err != nil || len(out.Leases) != 0 {
		t.Errorf("%+v %v", out, err)
	}
	if d := r.run(run.ID); d.Steps[0].Status != step.StepQueued {
		t.Errorf("%+v", d.Steps[0])
	}
	beat := wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: []wire.DriverInfo{offering("local", able...)}}
	if _, err := w.Heartbeat(t.Context(), beat); err != nil {
		t.Fatal(err)
	}
	w.finish(w.one(), exit(0))
}
