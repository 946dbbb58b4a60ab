package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	daemons    = 4
	submitters = 16
	backlog    = 1024 // steps that are submitted and not committed, at most, in the closed loop
	mostRuns   = 1 << 20
)

// load submits runs of a shape and follows their steps to the commit of their
// verdict.
type load struct {
	p      *plane
	perRun int

	next   atomic.Int64
	sent   []atomic.Int64 // when each run was posted or, with a rate, due; ns
	posted []atomic.Int64 // when its answer was here
	open   atomic.Int64   // steps that are not committed
	room   chan struct{}

	from, until atomic.Int64 // what is counted, ns
	done        atomic.Int64 // committed in that time
	claimed     samples      // a claim's answer, from when it was sent and its oldest step was there
	started     samples      // from the post to the lease
	committed   samples      // from the post to the verdict
	submitted   samples
}

func newLoad(p *plane, perRun int) *load {
	return &load{p: p, perRun: perRun, sent: make([]atomic.Int64, mostRuns), posted: make([]atomic.Int64, mostRuns), room: make(chan struct{}, 1)}
}

// run is the plan's index in a step's name.
func runOf(l wire.Lease) int64 {
	var run, step int64
	if _, err := fmt.Sscanf(l.StepName, "s%d-%d", &run, &step); err != nil {
		panic(err) // made by this file
	}
	return run
}

func (l *load) plan(run int64) wire.SubmitRun {
	steps := make([]wire.PlanStep, l.perRun)
	for i := range steps {
		steps[i] = wire.PlanStep{Name: fmt.Sprintf("s%d-%d", run, i), Tool: "test:echo", Workspace: step.WorkspaceStep,
			Inputs: json.RawMessage(`{"msg":"hello from a step"}`)}
	}
	return wire.SubmitRun{Plan: wire.Plan{Goal: "bench", Steps: steps}}
}

func (l *load) counts(at time.Time) bool {
	n := at.UnixNano()
	return n >= l.from.Load() && n < l.until.Load()
}

// drive has daemons and submitters work for a span, after a lead that is not
// counted, and gives what the parts used in the span. rate is how many steps
// arrive in a second, however long they take; 0 = as many as are taken, with a
// bounded backlog.
func (l *load) drive(rate float64, lead, span time.Duration) usage {
	b := l.p.b
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var hosts sync.WaitGroup
	for n := range daemons {
		d := l.p.newDaemon(n)
		d.taken, d.committed = l.taken, l.ended
		hosts.Go(func() { d.run(ctx, b) })
	}
	begin := time.Now()
	l.from.Store(begin.Add(lead).UnixNano())
	l.until.Store(begin.Add(lead + span).UnixNano())
	var users sync.WaitGroup
	for range submitters {
		c := l.p.client("user")
		users.Go(func() {
			for {
				run := l.next.Add(1) - 1
				due := time.Now()
				if rate > 0 {
					due = begin.Add(time.Duration(float64(run*int64(l.perRun)) / rate * float64(time.Second)))
				}
				if due.UnixNano() >= l.until.Load() || run >= mostRuns {
					return
				}
				pause(ctx, time.Until(due)) // ctx ends after the submitters
				l.enter(rate == 0)
				if rate == 0 {
					due = time.Now()
				}
				l.sent[run].Store(due.UnixNano())
				_, err := c.Submit(ctx, l.plan(run), "")
				now := time.Now()
				l.posted[run].Store(now.UnixNano())
				if err != nil {
					l.committed.fail()
					b.Errorf("submit: %v", err)
					return
				}
				if l.counts(now) {
					l.submitted.add(now.Sub(due))
				}
			}
		})
	}
	pause(ctx, lead)
	before := l.p.usage()
	pause(ctx, time.Until(begin.Add(lead+span)))
	used := l.p.usage().since(before)
	users.Wait()
	l.wait()
	cancel()
	hosts.Wait()
	return used
}

// wait waits until all that was submitted is committed; what is counted as not
// done in time comes to its end, too.
func (l *load) wait() {
	const most = 30 * time.Second
	begin := time.Now()
	for l.open.Load() > 0 {
		if time.Since(begin) > most {
			l.p.b.Errorf("%d steps were not committed", l.open.Load())
			return
		}
		pause(l.p.b.Context(), 20*time.Millisecond)
	}
}

func (l *load) report(used usage, span time.Duration) {
	b := l.p.b
	used.report(b, l.done.Load())
	b.ReportMetric(l.rate(span), "steps/s")
	l.submitted.report(b, "submit")
	l.claimed.report(b, "claim")
	l.started.report(b, "submit-to-lease")
	l.committed.report(b, "submit-to-commit")
	b.ReportMetric(float64(l.committed.s.Failed), "failed")
	b.ReportMetric(0, "ns/op")
}

func (l *load) rate(span time.Duration) float64 { return float64(l.done.Load()) / span.Seconds() }

// enter counts a run's steps in, when there is room for them.
func (l *load) enter(bounded bool) {
	for bounded && l.open.Load() >= backlog {
		<-l.room
	}
	l.open.Add(int64(l.perRun))
}

func (l *load) taken(sent, got time.Time, leases []wire.Lease) {
	if !l.counts(got) {
		return
	}
	oldest := got.UnixNano()
	for _, x := range leases {
		run := runOf(x)
		posted := l.posted[run].Load()
		if posted == 0 { // the lease came before the answer
			posted = l.sent[run].Load()
		}
		oldest = min(oldest, posted)
		l.started.add(time.Duration(got.UnixNano() - l.sent[run].Load()))
	}
	l.claimed.add(time.Duration(got.UnixNano() - max(oldest, sent.UnixNano())))
}

func (l *load) ended(x wire.Lease, at time.Time) {
	l.open.Add(-1)
	select {
	case l.room <- struct{}{}:
	default:
	}
	if l.counts(at) {
		l.done.Add(1)
		l.committed.add(time.Duration(at.UnixNano() - l.sent[runOf(x)].Load()))
	}
}

// BenchmarkControlPlane is whole steps, from the post of their run to the
// commit of their verdict, by daemons that run nothing. Runs have one step, or
// ten that do not wait for each other. The closed loop has at most 1,024 steps
// between post and commit; River's own benchmark follows on the same Postgres.
// At a fixed rate, times count from when a run was due.
func BenchmarkControlPlane(b *testing.B) {
	const lead, span = 3 * time.Second, 12 * time.Second
	for _, shape := range []struct {
		name   string
		perRun int
		rate   float64
	}{
		{"closed/runs-of-1", 1, 0},
		{"closed/runs-of-10", 10, 0},
		{"rate-1000/runs-of-1", 1, 1000},
		{"rate-3000/runs-of-10", 10, 3000},
	} {
		b.Run(shape.name, func(b *testing.B) {
			p := newPlane(b)
			gate := NewGate(b, p.server)
			l := newLoad(p, shape.perRun)
			l.report(l.drive(shape.rate, lead, span), span)
			gate.Look()
			if shape.rate == 0 {
				p.river(gate, l.rate(span), span)
			}
		})
	}
}

var overall = regexp.MustCompile(`overall job/sec \[\s*([0-9.]+)`)

// river runs River's own benchmark in a database of its own on the same
// Postgres, and reports ours as a part of it.
func (p *plane) river(gate *Gate, ours float64, span time.Duration) {
	b := p.b
	if _, err := os.Stat(p.riverTool()); err != nil {
		b.Log("river: not there")
		return
	}
	out := p.riverSays("bench", "--duration", span.String(), "--database-url", p.riverDatabase())
	found := overall.FindStringSubmatch(out)
	if found == nil {
		b.Fatalf("river said no rate:\n%s", out)
	}
	jobs, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(jobs, "river-jobs/s")
	gate.Look()
	gate.Ratio("steps/river-job", ours/jobs)
}

func (p *plane) riverTool() string { return filepath.Join(p.bin, "river") }

// riverSays runs River's command.
func (p *plane) riverSays(args ...string) string {
	p.b.Helper()
	out, err := exec.CommandContext(p.b.Context(), p.riverTool(), args...).CombinedOutput()
	if err != nil {
		p.b.Fatalf("river %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// riverDatabase makes a database of River's on this Postgres.
func (p *plane) riverDatabase() string {
	p.b.Helper()
	at, err := url.Parse(p.db.Admin)
	if err != nil {
		p.b.Fatal(err)
	}
	p.sql("CREATE DATABASE river")
	at.Path = "/river"
	p.riverSays("migrate-up", "--database-url", at.String())
	return at.String()
}
