package queue

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/api/internal/quota"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	mostStoring = 2                // transactions that store a tenant's submissions, at a time
	mostPosts   = 64               // submissions in one of them
	mostSteps   = 2000             // and their steps, but for one submission that has more
	storeTime   = 30 * time.Second // for one of them
)

// posts are submissions on their way into the database. A tenant's that come
// while others of it are being stored wait for those and are stored together:
// each whole or not at all, in a transaction that many share. One that comes
// alone waits for nobody.
type posts struct {
	mu    sync.Mutex
	lines map[string]*line // by tenant; no empty ones
}

type line struct {
	waiting []*post
	storing int
}

// post is one submission.
type post struct {
	who  auth.Principal
	s    Submission
	turn chan []*post    // one value: those that it is to store, itself the first; nil = it has been stored, or refused
	gone <-chan struct{} // closed when nobody waits for the answer any more

	queued   []plan.Step
	held     string // why it does not begin yet
	answer   wire.RunCreated
	replayed bool
	err      error
}

func newPost(who auth.Principal, s Submission, gone <-chan struct{}) *post {
	return &post{who: who, s: s, turn: make(chan []*post, 1), gone: gone}
}

// join puts a submission in line.
func (p *posts) join(x *post) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lines[x.who.TenantID]
	if l == nil {
		if p.lines == nil {
			p.lines = map[string]*line{}
		}
		l = &line{}
		p.lines[x.who.TenantID] = l
	}
	l.waiting = append(l.waiting, x)
	if l.storing < mostStoring && l.next() {
		l.storing++
	}
	p.drop(x.who.TenantID, l)
}

// drop forgets a line that nobody is in.
func (p *posts) drop(tenant string, l *line) {
	if l.storing == 0 && len(l.waiting) == 0 {
		delete(p.lines, tenant)
	}
}

// next gives the first that waits the turn, and those behind it with it. It
// reports whether there was one.
func (l *line) next() bool {
	l.waiting = slices.DeleteFunc(l.waiting, func(x *post) bool {
		select {
		case <-x.gone:
			x.end(step.Errorf(step.KindUnavailable, "the request was given up"))
			return true
		default:
			return false
		}
	})
	if len(l.waiting) == 0 {
		return false
	}
	n, steps := 0, 0
	for n < len(l.waiting) && n < mostPosts {
		if steps += len(l.waiting[n].s.Steps); n > 0 && steps > mostSteps {
			break
		}
		n++
	}
	batch := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	batch[0].turn <- batch
	return true
}

// end tells a submission what came of it.
func (x *post) end(err error) {
	x.err = err
	x.turn <- nil
}

// done tells those that were stored with the first, and gives the next the
// turn. When the database was away, those that wait need not find it out one
// after the other.
func (p *posts) done(tenant string, batch []*post) {
	for _, x := range batch[1:] {
		x.turn <- nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lines[tenant]
	if err := batch[0].err; step.Is(err, step.KindUnavailable) {
		for _, x := range l.waiting {
			x.end(err)
		}
		l.waiting = nil
	}
	if l.next() {
		return
	}
	l.storing--
	p.drop(tenant, l)
}

// storeTogether stores submissions, of which the first is the caller's own.
// Others wait for it, so it does not end when that client hangs up.
func (q *Queue) storeTogether(ctx context.Context, tenant string, batch []*post) {
	over := false
	defer func() {
		if !over { // a panic
			for _, p := range batch {
				p.err = step.Errorf(step.KindInternal, "the run was not stored")
			}
		}
		q.posts.done(tenant, batch)
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	q.storePosts(ctx, tenant, batch)
	over = true
}

// storePosts stores submissions in one transaction. When it fails by one of
// them, each has one of its own.
func (q *Queue) storePosts(ctx context.Context, tenant string, batch []*post) {
	err := q.db.Tenant(ctx, tenant, func(db *pgdb.Queries) error { return q.storeIn(ctx, db, tenant, batch) })
	if err == nil {
		return
	}
	if len(batch) > 1 && !step.Is(err, step.KindUnavailable) {
		for i := range batch {
			q.storePosts(ctx, tenant, batch[i:i+1])
		}
		return
	}
	for _, p := range batch {
		p.err = err
	}
}

// posting is what one transaction writes of runs that begin.
type posting struct {
	runs   pgdb.InsertRunsParams
	steps  pgdb.InsertStepsParams
	events event.Batch
	audit  pgdb.InsertAuditsParams
	keys   map[string]bool // idempotency keys
}

func (q *Queue) storeIn(ctx context.Context, db *pgdb.Queries, tenant string, batch []*post) error {
	projects := make([]string, len(batch))
	for i, p := range batch {
		projects[i] = p.s.ProjectID
	}
	rules, err := policyOf(ctx, db, tenant, projects...)
	if err != nil {
		return err
	}
	spent := quota.Check(ctx, db, tenant, time.Now())
	to := posting{runs: pgdb.InsertRunsParams{TenantID: tenant, Region: q.cfg.Region}, steps: pgdb.InsertStepsParams{TenantID: tenant},
		audit: pgdb.InsertAuditsParams{TenantID: tenant}, keys: map[string]bool{}}
	for _, p := range batch {
		p.queued, p.held, p.replayed, p.answer = nil, "", false, wire.RunCreated{} // the transaction may run more than once
		p.err = q.storePost(ctx, db, p, rules, spent, &to)
		var refused *step.Error
		if p.err != nil && !errors.As(p.err, &refused) {
			return p.err
		}
	}
	if len(to.runs.Ids) == 0 {
		return nil
	}
	if len(rules.unknown) > 0 {
		if err := q.makeProjects(ctx, db, tenant, to.runs.ProjectIds); err != nil {
			return err
		}
	}
	if err := db.InsertRuns(ctx, to.runs); err != nil {
		return err
	}
	if err := ensureKeys(ctx, db, tenant, to.steps.ConcurrencyKeys); err != nil {
		return err
	}
	if err := db.InsertSteps(ctx, to.steps); err != nil {
		return err
	}
	if err := to.events.Write(ctx, db); err != nil {
		return err
	}
	return db.InsertAudits(ctx, to.audit)
}

// storePost adds a submission to what is to be written, unless it is a repeat or
// refused.
func (q *Queue) storePost(ctx context.Context, db *pgdb.Queries, p *post, rules policy, spent error, to *posting) error {
	once := Once{runsRoute, p.s.IdempotencyKey, p.s.Fingerprint}
	if once.Key != "" {
		if to.keys[once.Key] {
			return beingServed()
		}
		to.keys[once.Key] = true
		found, body, err := findReplay(ctx, db, p.who.TenantID, once)
		if err != nil {
			return err
		}
		if found {
			p.replayed = true
			return json.Unmarshal(body, &p.answer)
		}
	}
	s := p.s
	s.Steps = slices.Clone(s.Steps)
	if err := rules.ceiling.Apply(s.Steps); err != nil {
		return err
	}
	if err := plan.Reside(s.Steps, rules.residency); err != nil {
		return err
	}
	if err := q.place(ctx, s.Steps, rules.residency); err != nil {
		return err
	}
	if spent != nil {
		return spent
	}
	n := newRun(p.who, s, holdOf(s.Turn, rules.bounded))
	if err := n.store(q, to); err != nil {
		return err
	}
	p.queued, p.held, p.answer = n.queued, n.hold, wire.RunCreated{ID: n.id, Status: n.status, ProjectID: s.ProjectID}
	if once.Key == "" {
		return nil
	}
	return putReplay(ctx, db, p.who.TenantID, once, created, p.answer)
}
