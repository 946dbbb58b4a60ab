package api_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// machineTime is for how long the machine tries; at least a few dozen requeues.
const machineTime = 12 * time.Second

// broken are states that the database must never be in, each with the query
// that finds them.
var broken = map[string]string{
	"two live attempts of a step": `SELECT step_id FROM nofx.attempt WHERE status = 'running' GROUP BY step_id HAVING count(*) > 1`,
	"a live attempt of a step that does not run, or of another generation": `SELECT a.id FROM nofx.attempt a JOIN nofx.step s ON s.id = a.step_id
		WHERE a.status = 'running' AND (s.status <> 'running' OR a.generation <> s.generation OR a.number <> s.attempt)`,
	"a running step without an attempt": `SELECT s.id FROM nofx.step s WHERE s.status = 'running'
		AND NOT EXISTS (SELECT 1 FROM nofx.attempt a WHERE a.step_id = s.id AND a.status = 'running')`,
	"an exhausted step without an entry": `SELECT s.id FROM nofx.step s JOIN nofx.run r ON r.id = s.run_id
		WHERE s.status IN ('failed', 'timed_out') AND (s.attempt >= 2 OR s.verdict ->> 'cause' = 'driver_error') AND r.cancel_at IS NULL
		AND NOT EXISTS (SELECT 1 FROM nofx.step_dlq d WHERE d.step_id = s.id AND d.generation = s.generation)`,
	"an entry without its event, or with two": `SELECT d.id FROM nofx.step_dlq d
		WHERE 1 <> (SELECT count(*) FROM nofx.event e WHERE e.run_id = d.run_id AND e.type = 'step.dead' AND e.payload ->> 'entry' = d.id)`,
	"an event without its entry": `SELECT e.run_id FROM nofx.event e WHERE e.type = 'step.dead'
		AND NOT EXISTS (SELECT 1 FROM nofx.step_dlq d WHERE d.id = e.payload ->> 'entry' AND d.step_id = e.step_id)`,
	"a history that is not that of all attempts": `SELECT d.id FROM nofx.step_dlq d WHERE json_array_length(d.history) <> d.attempts`,
	"an open entry of a step that is tried again": `SELECT d.id FROM nofx.step_dlq d JOIN nofx.step s ON s.id = d.step_id
		WHERE d.state = 'open' AND (s.generation <> d.generation OR s.status NOT IN ('failed', 'timed_out'))`,
	"counts that are wrong": `SELECT r.id FROM nofx.run r WHERE (r.steps_left, r.steps_failed, r.steps_cancelled) <>
		(SELECT count(*) FILTER (WHERE s.ended_at IS NULL), count(*) FILTER (WHERE s.status IN ('failed', 'timed_out')), count(*) FILTER (WHERE s.status = 'cancelled')
		 FROM nofx.step s WHERE s.run_id = r.id)`,
	"a run that has ended with steps left, or has not without": `SELECT r.id FROM nofx.run r WHERE (r.ended_at IS NULL) <> (r.steps_left > 0)`,
	"a waiting step that waits for nothing, or a queued one that does for something": `SELECT s.id FROM nofx.step s WHERE s.status IN ('waiting', 'queued') AND s.deps_left <>
		(SELECT count(*) FROM nofx.step o WHERE o.run_id = s.run_id AND o.name = ANY (s.depends_on) AND o.status <> 'succeeded')`,
	"a step that begins in a cancelled run": `SELECT s.id FROM nofx.step s JOIN nofx.run r ON r.id = s.run_id WHERE r.cancel_at IS NOT NULL AND s.status IN ('waiting', 'queued')`,
	"a budget that is overdrawn":            `SELECT id FROM nofx.run WHERE retries > retry_budget`,
	"events with gaps":                      `SELECT run_id FROM nofx.event GROUP BY run_id HAVING count(*) <> max(seq) OR min(seq) <> 1`,
	"a resolved entry that nobody audited": `SELECT d.id FROM nofx.step_dlq d WHERE d.state = 'discarded'
		AND 1 <> (SELECT count(*) FROM nofx.audit_log a WHERE a.action = 'dlq.discard' AND a.target = d.id)`,
	"an entry that was requeued twice": `SELECT target FROM nofx.audit_log WHERE action = 'dlq.requeue' GROUP BY target HAVING count(*) > 1`,
}

// dlqMachine does what users and workers may do, in any order and two at once.
type dlqMachine struct {
	r    *rig
	w    *worker
	runs []string
	held []wire.Lease
}

// one does something that the state may forbid: a conflict is fine, another
// error is not.
func (m *dlqMachine) one(t *rapid.T, what string) func() error {
	ctx := m.r.t.Context()
	run := rapid.SampledFrom(m.runs).Draw(t, "run")
	switch what {
	case "cancel":
		return func() error { _, err := m.r.user.Cancel(ctx, run); return err }
	case "retry run":
		all := rapid.Bool().Draw(t, "all")
		return func() error { _, err := m.r.user.RetryRun(ctx, run, wire.RetryRun{All: all}, ""); return err }
	case "retry step":
		steps := m.r.run(run).Steps
		id := steps[rapid.IntRange(0, len(steps)-1).Draw(t, "step")].ID
		return func() error { _, err := m.r.user.RetryStep(ctx, run, id, ""); return err }
	}
	list, err := m.r.user.Dead(ctx, wire.DeadFilter{State: client.AnyState}, 20, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Entries) == 0 {
		return func() error { return nil }
	}
	id := list.Entries[rapid.IntRange(0, len(list.Entries)-1).Draw(t, "entry")].ID
	switch what {
	case "discard":
		return func() error { _, err := m.r.user.DiscardDead(ctx, id, ""); return err }
	case "requeue many":
		return func() error {
			_, err := m.r.user.RequeueMany(ctx, wire.ResolveMany{Match: &wire.DeadFilter{}, Driver: "local"}, "")
			return err
		}
	}
	return func() error { _, err := m.r.user.RequeueDead(ctx, id, wire.RequeueDead{}, ""); return err }
}

var deeds = []string{"requeue", "requeue", "requeue many", "discard", "retry run", "retry step", "cancel"}

func (m *dlqMachine) race(t *rapid.T) {
	n := rapid.IntRange(1, 3).Draw(t, "at once")
	do := make([]func() error, n)
	for i := range do {
		do[i] = m.one(t, rapid.SampledFrom(deeds).Draw(t, "deed"))
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range do {
		wg.Go(func() { errs[i] = do[i]() })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !step.Is(err, step.KindConflict) {
			t.Fatal(err)
		}
	}
}

func (m *dlqMachine) submit(t *rapid.T) {
	if len(m.runs) >= 3 {
		t.Skip("enough")
	}
	run := m.r.submit(`[{"name":"a","tool":"bash","inputs":{"command":"x"},"retry":{"attempts":2}},{"name":"b","tool":"bash","inputs":{"command":"x"},"depends_on":["a"],"retry":{"attempts":2}},
		{"name":"c","tool":"test:echo","depends_on":["a"]},{"name":"d","tool":"test:echo","workspace":"step"},{"name":"e","tool":"test:echo","depends_on":["b","d"]}]`)
	m.runs = append(m.runs, run.ID)
}

func (m *dlqMachine) claim(t *rapid.T) {
	m.held = append(m.held, m.w.claim(rapid.IntRange(1, 3).Draw(t, "most"), 0)...)
}

func (m *dlqMachine) end(t *rapid.T) {
	if len(m.held) == 0 {
		t.Skip("nothing is held")
	}
	i := rapid.IntRange(0, len(m.held)-1).Draw(t, "lease")
	v := rapid.SampledFrom([]wire.VerdictRecord{exit(0), exit(0), exit(1), exit(1), cause(step.CauseTimeout), cause(step.CauseDriverError)}).Draw(t, "verdict")
	m.w.finish(m.held[i], v)
	m.held = append(m.held[:i], m.held[i+1:]...)
}

// wreck has all that can begin fail, until nothing can any more.
func (m *dlqMachine) wreck(*rapid.T) {
	for {
		m.held = append(m.held, m.w.claim(8, 0)...)
		if len(m.held) == 0 {
			return
		}
		for _, l := range m.held {
			m.w.finish(l, exit(1))
		}
		m.held = nil
	}
}

// Whatever users and workers do, in any order and at the same time: each
// exhausted generation of a step has one entry, none has two live attempts, and
// the books are right.
func TestDLQMachine(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	m := &dlqMachine{r: r, w: r.worker("host")}
	admin, err := pgx.Connect(t.Context(), r.db.Admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Close(t.Context()) })
	var queries []string
	for what, query := range broken {
		queries = append(queries, fmt.Sprintf("SELECT '%s', x.*::text FROM (%s) x", what, query))
	}
	look := strings.Join(queries, "\nUNION ALL\n") + "\nLIMIT 1"
	end, failed := time.Now().Add(machineTime), false
	rapid.Check(t, func(rt *rapid.T) {
		if !failed && time.Now().After(end) {
			return
		}
		m.runs, m.held = nil, nil
		m.submit(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"submit": m.submit, "claim": m.claim, "claim more": m.claim, "end": m.end, "end more": m.end, "wreck": m.wreck, "race": m.race, "race more": m.race,
			"": func(rt *rapid.T) {
				var what, found string
				err := admin.QueryRow(t.Context(), look).Scan(&what, &found)
				if err == nil {
					failed = true
					rt.Fatalf("%s: %s", what, found)
				} else if !errors.Is(err, pgx.ErrNoRows) {
					rt.Fatal(err)
				}
			},
		})
		// To the end, so that the next check begins with nothing queued.
		for _, id := range m.runs {
			_, _ = r.user.Cancel(t.Context(), id)
		}
		for _, l := range m.held {
			m.w.finish(l, cause(step.CauseCancelled))
		}
		for _, id := range m.runs {
			if d := r.run(id); !d.Run.Status.Terminal() {
				rt.Fatalf("does not end: %s", statuses(d))
			}
		}
	})
	requeued := len(r.audited("dlq.requeue"))
	if requeued < 10 {
		t.Errorf("only %d entries were requeued: the test does too little", requeued)
	}
	t.Logf("%d entries, %d of them requeued, %d discarded, %d runs and %d steps retried", len(r.dead(wire.DeadFilter{State: client.AnyState})), requeued,
		len(r.audited("dlq.discard")), len(r.audited("run.retry"))+len(r.audited("run.rerun")), len(r.audited("step.retry")))
}
