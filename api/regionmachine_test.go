package api_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// misplaced are states that the database must never be in, each with the query
// that finds them.
var misplaced = map[string]string{
	"an attempt outside the regions of its step": `SELECT a.id FROM nofx.attempt a JOIN nofx.step s ON s.id = a.step_id
		WHERE cardinality(s.regions) > 0 AND a.region <> ALL (s.regions)`,
	"a workspace on two workers": `SELECT a.run_id FROM nofx.attempt a JOIN nofx.step s ON s.id = a.step_id AND a.generation = s.generation AND a.number = s.attempt
		WHERE s.shares AND s.status = 'succeeded' GROUP BY a.run_id HAVING count(DISTINCT a.worker_id) > 1`,
	"steps apart that are to share a workspace": `SELECT s.run_id FROM nofx.step s JOIN nofx.run r ON r.id = s.run_id
		WHERE s.shares AND r.pin = '' AND s.status IN ('waiting', 'queued') GROUP BY s.run_id HAVING count(DISTINCT s.region) > 1`,
	"a placed step outside its own order": `SELECT id FROM nofx.step WHERE region <> '' AND cardinality(regions) > 0 AND region <> ALL (regions)`,
}

// regionMachine does what users, operators and workers may do.
type regionMachine struct {
	r         *rig
	workers   []*worker
	residency []string
	runs      []string
	held      []holding
	taken     int
}

type holding struct {
	w *worker
	l wire.Lease
}

var atlas = []string{"r1", "r2", "r3"}

// order is some regions, or none.
func order(t *rapid.T, label string) []string {
	all := rapid.Permutation(atlas).Draw(t, label)
	return all[:rapid.IntRange(0, len(all)).Draw(t, label+" length")]
}

func (m *regionMachine) submit(t *rapid.T) {
	if len(m.runs) >= 4 {
		t.Skip("enough")
	}
	var p wire.Plan
	p.Goal = "g"
	if rapid.Bool().Draw(t, "the plan names some") {
		p.Regions = order(t, "of the plan")
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "steps") {
		s := wire.PlanStep{Name: fmt.Sprint("s", i), Tool: "bash", Inputs: []byte(`{"command":"x"}`), Driver: rapid.SampledFrom([]string{"local", "local", "far"}).Draw(t, "driver"),
			Regions: order(t, "of the step"), Retry: &wire.Retry{Attempts: 2}}
		if i > 0 && rapid.Bool().Draw(t, "after") {
			s.DependsOn = []string{fmt.Sprint("s", i-1)}
		}
		p.Steps = append(p.Steps, s)
	}
	run, err := m.r.user.Submit(m.r.t.Context(), wire.SubmitRun{Plan: p}, "")
	switch {
	case step.Is(err, step.KindInvalid): // outside the residency, or apart though they share
	case err != nil:
		t.Fatal(err)
	default:
		m.runs = append(m.runs, run.ID)
	}
}

func (m *regionMachine) reside(t *rapid.T) {
	m.residency = order(t, "residency")
	if err := api.SetTenantResidency(m.r.t.Context(), m.r.db.Admin, "acme", m.residency); err != nil {
		t.Fatal(err)
	}
}

// sick makes a driver well or not.
func (m *regionMachine) sick(t *rapid.T) {
	w := rapid.SampledFrom(m.workers).Draw(t, "worker")
	d := &w.drivers[rapid.IntRange(0, len(w.drivers)-1).Draw(t, "driver")]
	d.Healthy = !d.Healthy
	m.beat(w)
}

// beat renews what the worker holds.
func (m *regionMachine) beat(w *worker) {
	held := []wire.Fence{}
	for _, h := range m.held {
		if h.w == w {
			held = append(held, h.l.Fence)
		}
	}
	if _, err := w.Heartbeat(m.r.t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, Held: held}); err != nil {
		m.r.t.Fatal(err)
	}
}

// take has a worker claim, and looks at what it is given.
func (m *regionMachine) take(fail func(string, ...any), w *worker, most int) {
	w.claims++
	for _, l := range w.claimAs(fmt.Sprint(w.incarnation, " ", w.claims), most, 0) {
		m.held = append(m.held, holding{w, l})
		m.taken++
		d := w.drivers[slices.IndexFunc(w.drivers, func(d wire.DriverInfo) bool { return d.Name == l.Driver })]
		if !d.Healthy {
			fail("%s has the driver %s not healthy, and got %s", w.region, d.Name, l.StepName)
		}
		if len(m.residency) > 0 && (!slices.Contains(m.residency, w.region) || !slices.Contains(m.residency, d.Region)) {
			fail("%s went to a worker in %s with %s in %s, with the residency %v", l.StepName, w.region, d.Name, d.Region, m.residency)
		}
	}
}

func (m *regionMachine) claim(t *rapid.T) {
	m.take(t.Fatalf, rapid.SampledFrom(m.workers).Draw(t, "worker"), rapid.IntRange(1, 4).Draw(t, "most"))
}

func (m *regionMachine) end(t *rapid.T) {
	if len(m.held) == 0 {
		t.Skip("nothing is held")
	}
	i := rapid.IntRange(0, len(m.held)-1).Draw(t, "lease")
	h := m.held[i]
	m.held = slices.Delete(m.held, i, i+1)
	h.w.finish(h.l, rapid.SampledFrom([]wire.VerdictRecord{exit(0), exit(0), exit(0), exit(1), cause(step.CauseDriverError)}).Draw(t, "verdict"))
}

func (m *regionMachine) again(t *rapid.T) {
	if len(m.runs) == 0 {
		t.Skip("there is none")
	}
	_, err := m.r.user.RetryRun(m.r.t.Context(), rapid.SampledFrom(m.runs).Draw(t, "run"), wire.RetryRun{All: rapid.Bool().Draw(t, "all")}, "")
	if err != nil && !step.Is(err, step.KindConflict) {
		t.Fatal(err)
	}
}

// tick is what the reaper does every moment.
func (m *regionMachine) tick(t *rapid.T) {
	resp, raw := m.r.call("POST", "/api/tick", m.r.cfg.TickToken, nil)
	if resp.StatusCode >= 300 {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
}

// finish has everything end, with all workers well and no rule.
func (m *regionMachine) finish(t *rapid.T) {
	m.residency = nil
	if err := api.SetTenantResidency(m.r.t.Context(), m.r.db.Admin, "acme", nil); err != nil {
		t.Fatal(err)
	}
	for _, w := range m.workers {
		for i := range w.drivers {
			w.drivers[i].Healthy = true
		}
		m.beat(w)
	}
	for end := time.Now().Add(time.Minute); ; {
		for _, h := range m.held {
			h.w.finish(h.l, exit(0))
		}
		m.held = nil
		open := slices.DeleteFunc(slices.Clone(m.runs), func(id string) bool { return m.r.run(id).Run.Status.Terminal() })
		if len(open) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("does not end: %+v", m.r.run(open[0]).Steps)
		}
		m.tick(t)
		for _, w := range m.workers {
			m.take(t.Fatalf, w, 8)
		}
	}
}

// Whatever users, operators and workers do: no attempt is outside its step's
// regions or its tenant's residency, what shares a workspace stays together, and
// nothing is left where nobody takes it.
func TestRegionMachine(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t), func(c *api.Config) { c.RegionWait, c.TickToken = time.Second, strings.Repeat("t", 24) })
	far := offering("far", slices.DeleteFunc(slices.Clone(able), func(c string) bool { return c == "host" })...)
	m := &regionMachine{r: r}
	for host, at := range map[string]string{"r1": "r1", "r2": "r3", "r3": "r2"} {
		m.workers = append(m.workers, r.workerIn(host, elsewhere(host, offering("local", able...)), elsewhere(at, far)))
	}
	slices.SortFunc(m.workers, func(a, b *worker) int { return strings.Compare(a.region, b.region) })
	admin, err := pgx.Connect(t.Context(), r.db.Admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Close(t.Context()) })
	var queries []string
	for what, query := range misplaced {
		queries = append(queries, fmt.Sprintf("SELECT '%s', x.*::text FROM (%s) x", what, query))
	}
	look := strings.Join(queries, "\nUNION ALL\n") + "\nLIMIT 1"
	const enough = 20
	moved := func() int { return len(r.column("SELECT run_id FROM nofx.event WHERE type = 'step.moved'")) }
	end, failed, checks := time.Now().Add(machineTime), false, 0
	rapid.Check(t, func(rt *rapid.T) {
		if !failed && time.Now().After(end) && m.taken >= enough && moved() > 0 {
			return
		}
		checks++
		m.runs, m.held = nil, nil
		defer func() { failed = failed || rt.Failed() }()
		m.submit(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"submit": m.submit, "claim": m.claim, "claim more": m.claim, "end": m.end, "end more": m.end, "reside": m.reside, "sick": m.sick, "tick": m.tick, "again": m.again,
			"": func(rt *rapid.T) {
				var what, found string
				err := admin.QueryRow(t.Context(), look).Scan(&what, &found)
				if err == nil {
					rt.Fatalf("%s: %s", what, found)
				} else if !errors.Is(err, pgx.ErrNoRows) {
					rt.Fatal(err)
				}
			},
		})
		m.finish(rt)
	})
	denied := len(r.column("SELECT id::text FROM nofx.audit_log WHERE outcome = 'denied'"))
	t.Logf("%d checks: %d leases, %d steps moved, %d denied", checks, m.taken, moved(), denied)
	if m.taken < enough || moved() == 0 {
		t.Error("the test does too little")
	}
}
