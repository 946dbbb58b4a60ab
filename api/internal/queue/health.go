package queue

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nofx-run/nofx/api/internal/breaker"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Rules tells what a handler's breakers go by.
type Rules interface {
	Rules(handler string) breaker.Rules
	// Drivers are those that a handler names; known is false without such a handler.
	Drivers(handler string) (names []string, known bool)
}

// defaultRules is what a queue goes by that is given none.
type defaultRules struct{}

func (defaultRules) Rules(string) breaker.Rules      { return breaker.Defaults() }
func (defaultRules) Drivers(string) ([]string, bool) { return nil, false }

// Observer hears what becomes of breakers, for metrics. It returns at once.
type Observer interface {
	Breaker(state, handler, driver string)
}

type deaf struct{}

func (deaf) Breaker(string, string, string) {}

const (
	keepBreakerEvents = 30 * 24 * time.Hour
	judgeTimeout      = 10 * time.Second
)

// gate is one breaker: before a lane, on a driver.
type gate struct{ lane, driver string }

// tally is what a transaction's attempts came to, behind one gate and under
// one generation of its breaker.
type tally struct {
	generation int64
	good, bad  int64
	streak     int64 // of bad ones, at the end
}

// probe is the end of an attempt that was one.
type probe struct {
	gate
	attempt    string
	generation int64
	outcome    breaker.Outcome
}

// ended is an attempt that is over. Without a verdict it was given back.
type ended struct {
	attemptRow
	verdict step.Verdict
}

// results are what ended attempts say of their handlers.
type results []ended

func (r *results) add(a attemptRow, v step.Verdict) {
	if a.Lane != "" {
		*r = append(*r, ended{a, v})
	}
}

// sum adds results up. A probe counts as itself and in no tally.
func (r results) sum(rules Rules) (map[gate]*tally, []probe) {
	var tallies map[gate]*tally
	var probes []probe
	for _, e := range r {
		g := gate{e.Lane, e.Driver}
		o := rules.Rules(breaker.ParseLane(e.Lane).Handler).Judge(e.verdict)
		if e.Probe {
			probes = append(probes, probe{g, e.ID, e.BreakerGeneration, o})
			continue
		}
		if o == breaker.Neutral {
			continue
		}
		t := tallies[g]
		if t == nil || t.generation < e.BreakerGeneration {
			if tallies == nil {
				tallies = map[gate]*tally{}
			}
			t = &tally{generation: e.BreakerGeneration}
			tallies[g] = t
		}
		switch {
		case t.generation > e.BreakerGeneration: // of before its breaker changed
		case o == breaker.Good:
			t.good++
			t.streak = 0
		default:
			t.bad++
			t.streak++
		}
	}
	return tallies, probes
}

// spanMS is the length of one of the spans that results are counted in.
func spanMS(r breaker.Rules) int64 { return max(r.Window.Milliseconds()/2, 1) }

// shards is how many rows the results of one breaker are spread over.
const shards = 32

// record adds results up in the rows of the worker's shard.
func (q *Queue) record(ctx context.Context, db *pgdb.Queries, r results, worker string) error {
	tallies, _ := r.sum(q.cfg.Rules)
	if len(tallies) == 0 {
		return nil
	}
	p := pgdb.TallyParams{Shard: shard(worker)}
	for _, g := range slices.SortedFunc(maps.Keys(tallies), byName) {
		t, lane := tallies[g], breaker.ParseLane(g.lane)
		p.TenantIds, p.Lanes, p.Drivers = append(p.TenantIds, lane.Tenant), append(p.Lanes, g.lane), append(p.Drivers, g.driver)
		p.Generations, p.SpansMs = append(p.Generations, t.generation), append(p.SpansMs, spanMS(q.cfg.Rules.Rules(lane.Handler)))
		p.Goods, p.Bads, p.Streaks = append(p.Goods, t.good), append(p.Bads, t.bad), append(p.Streaks, t.streak)
	}
	return db.Tally(ctx, p)
}

func byName(a, b gate) int { return strings.Compare(a.lane+"\n"+a.driver, b.lane+"\n"+b.driver) }

func shard(worker string) int32 {
	h := uint32(2166136261)
	for i := range len(worker) {
		h = (h ^ uint32(worker[i])) * 16777619
	}
	return int32(h % shards) //nolint:gosec // below shards
}

// judge lets committed results act on their breakers. It is not part of the
// transaction that stored them, whose rows others may not see yet: the last of
// them to commit sees them all. What fails here, the next result makes good,
// and a probe's place comes free by its lease.
func (q *Queue) judge(ctx context.Context, r results) {
	tallies, probes := r.sum(q.cfg.Rules)
	if len(tallies) == 0 && len(probes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), judgeTimeout) // also if the worker has hung up
	defer cancel()
	opened := false
	for _, g := range slices.SortedFunc(maps.Keys(tallies), byName) {
		if tallies[g].bad == 0 {
			continue
		}
		next, changed, err := q.turn(ctx, g, func(db *pgdb.Queries, b breaker.Breaker, rules breaker.Rules, now time.Time) (breaker.Breaker, bool, error) {
			if b.State != breaker.Closed || b.Forced || rules.Off {
				return b, false, nil
			}
			sum, err := db.FoldTally(ctx, pgdb.FoldTallyParams{SpanMs: spanMS(rules), Lane: g.lane, Driver: g.driver, Generation: b.Generation})
			if err != nil {
				return b, false, err
			}
			b, changed := b.Count(rules, breaker.Counts{Good: sum.Good, Bad: sum.Bad, Streak: sum.Streak}, now)
			return b, changed, nil
		})
		q.note(ctx, g, err)
		opened = opened || changed && next.State == breaker.Open
	}
	for _, p := range probes {
		next, changed, err := q.turn(ctx, p.gate, func(_ *pgdb.Queries, b breaker.Breaker, rules breaker.Rules, now time.Time) (breaker.Breaker, bool, error) {
			b, changed := b.Result(rules, p.attempt, p.generation, p.outcome, now)
			return b, changed, nil
		})
		q.note(ctx, p.gate, err)
		opened = opened || changed && next.State == breaker.Open
	}
	if opened {
		if err := q.settle(ctx); err != nil {
			q.log.LogAttrs(ctx, slog.LevelWarn, "steps before an open breaker are not settled yet", slog.Any("err", err))
		}
	}
}

func (q *Queue) note(ctx context.Context, g gate, err error) {
	if err != nil {
		q.log.LogAttrs(ctx, slog.LevelWarn, "a breaker could not be judged", slog.String("handler", breaker.ParseLane(g.lane).Handler),
			slog.String("driver", g.driver), slog.Any("err", err))
	}
}

// decideFunc makes of a breaker what it is to be.
type decideFunc func(db *pgdb.Queries, b breaker.Breaker, rules breaker.Rules, now time.Time) (next breaker.Breaker, changed bool, err error)

// turn changes one breaker, unless somebody else has changed it meanwhile, and
// tells of it.
func (q *Queue) turn(ctx context.Context, g gate, decide decideFunc) (next breaker.Breaker, changed bool, err error) {
	err = q.db.System(ctx, func(db *pgdb.Queries) error {
		next, changed, err = q.turnIn(ctx, db, g, decide)
		return err
	})
	if err != nil || !changed {
		return next, false, err
	}
	q.turned(ctx, g, next)
	return next, true, nil
}

func (q *Queue) turnIn(ctx context.Context, db *pgdb.Queries, g gate, decide decideFunc) (breaker.Breaker, bool, error) {
	row, err := db.GetHealth(ctx, g.lane, g.driver)
	if err != nil {
		return breaker.Breaker{}, false, err
	}
	lane := breaker.ParseLane(g.lane)
	rules := q.cfg.Rules.Rules(lane.Handler)
	before := breaker.Breaker{State: breaker.State(row.State), Generation: row.Generation, Opens: int(row.Opens), Forced: row.Forced,
		Probe: row.ProbeID, Reason: row.Reason}
	if row.ReadyAt != nil {
		before.ReadyAt = *row.ReadyAt
	}
	next, changed, err := decide(db, before, rules, row.Now)
	if err != nil || !changed {
		return before, false, err
	}
	p := pgdb.SetHealthParams{TenantID: lane.Tenant, Lane: g.lane, Handler: lane.Handler, Driver: g.driver, State: string(next.State),
		Generation: next.Generation, Opens: i32(next.Opens), Forced: next.Forced, ProbeID: next.Probe, ProbeMs: rules.ProbeLease.Milliseconds(),
		Reason: next.Reason, FromGeneration: before.Generation}
	if !next.ReadyAt.IsZero() {
		p.ReadyAt = &next.ReadyAt
	}
	n, err := db.SetHealth(ctx, p)
	if err != nil || n == 0 {
		return before, false, err
	}
	if next.State == before.State && next.Forced == before.Forced {
		return next, true, nil // a probe that said nothing
	}
	return next, true, db.InsertBreakerEvent(ctx, pgdb.InsertBreakerEventParams{TenantID: lane.Tenant, Handler: lane.Handler, Driver: g.driver,
		Type: string(eventOf(next.State)), Reason: next.Reason})
}

func eventOf(s breaker.State) step.EventType {
	switch s {
	case breaker.Open:
		return step.EventBreakerOpened
	case breaker.HalfOpen:
		return step.EventBreakerHalfOpen
	}
	return step.EventBreakerClosed
}

// turned does what follows from a change that is committed.
func (q *Queue) turned(ctx context.Context, g gate, b breaker.Breaker) {
	lane := breaker.ParseLane(g.lane)
	q.log.LogAttrs(ctx, slog.LevelInfo, "breaker "+string(b.State), slog.String("handler", lane.Handler), slog.String("driver", g.driver),
		slog.String("tenant", lane.Tenant), slog.String("reason", b.Reason))
	q.cfg.Observer.Breaker(string(b.State), lane.Handler, g.driver)
	if b.State != breaker.Open {
		q.hub.Some(pollWakes) // for what waited behind it; the poll wakes more
	}
}

// lent tells of the breakers that a claim has made half open.
func (q *Queue) lent(ctx context.Context, db *pgdb.Queries, taken []pgdb.ClaimRow) error {
	var ids []string
	for _, t := range taken {
		if t.Probe {
			ids = append(ids, t.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := db.ProbesOfClaim(ctx, ids)
	if err != nil {
		return err
	}
	for _, h := range rows {
		if err := db.InsertBreakerEvent(ctx, pgdb.InsertBreakerEventParams{TenantID: h.TenantID, Handler: h.Handler, Driver: h.Driver,
			Type: string(step.EventBreakerHalfOpen), Reason: h.Reason}); err != nil {
			return err
		}
		q.cfg.Observer.Breaker(string(breaker.HalfOpen), h.Handler, h.Driver)
	}
	return nil
}

// admit settles at once what was just queued and does not wait before an open
// breaker. The run is stored: what fails here, the reaper does at its next tick.
func (q *Queue) admit(ctx context.Context, queued []plan.Step) {
	if !slices.ContainsFunc(queued, func(s plan.Step) bool { return s.OnOpen != wire.OnOpenWait }) {
		return
	}
	if err := q.settle(ctx); err != nil {
		q.log.LogAttrs(ctx, slog.LevelWarn, "steps before an open breaker are not settled yet", slog.Any("err", err))
	}
}

// gatesOf are the breakers that a step meets: the lane of its first driver, and
// where there is more than one, all drivers with their lanes.
func gatesOf(tenant string, st plan.Step) (first string, names, lanes []string) {
	names, lanes = make([]string, len(st.Drivers)), make([]string, len(st.Drivers))
	for i, d := range st.Drivers {
		lane := breaker.Lane{Handler: st.Handler}
		if d.ByTenant {
			lane.Tenant = tenant
		}
		names[i], lanes[i] = d.Name, lane.String()
	}
	first = lanes[0]
	if len(names) == 1 {
		names, lanes = []string{}, []string{}
	}
	return first, names, lanes
}

// gates says which breakers a step meets.
func (n *fresh) gates(st plan.Step, p *pgdb.InsertStepsParams) {
	first, names, lanes := gatesOf(n.who.TenantID, st)
	p.Lanes, p.OnOpens = append(p.Lanes, first), append(p.OnOpens, string(st.OnOpen))
	p.DriversListed, p.LanesListed = append(p.DriversListed, strings.Join(names, listSep)), append(p.LanesListed, strings.Join(lanes, listSep))
}

// listSep is in no driver's name and in no lane.
const listSep = "\x1f"

// barriers are the breakers that let nothing through, for workers.
func barriers(ctx context.Context, db *pgdb.Queries) ([]wire.Barrier, error) {
	rows, err := db.Barring(ctx, wire.MaxBarriers)
	out := make([]wire.Barrier, len(rows))
	for i, r := range rows {
		out[i] = wire.Barrier{Lane: r.Lane, Driver: r.Driver, Generation: r.Generation}
	}
	return out, err
}
