package bench

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/wire"
)

// BenchmarkIdlePolling is what a thousand daemons that have nothing to do cost
// one replica, with their long polls and heartbeats as in production, and how
// soon one of them has a step that is submitted.
func BenchmarkIdlePolling(b *testing.B) {
	const (
		crowd  = 1000
		settle = 25 * time.Second // in which all have polled and beaten
		span   = 40 * time.Second // two long polls, four heartbeats
		steps  = 200
		apart  = 50 * time.Millisecond
	)
	p := newPlane(b)
	l := newLoad(p, 1)
	l.until.Store(math.MaxInt64)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var hosts sync.WaitGroup
	for n := range crowd {
		d := p.newDaemon(n)
		d.taken, d.committed = l.taken, l.ended
		hosts.Go(func() { d.run(ctx, b) })
	}
	pause(ctx, settle)
	before := p.usage()
	pause(ctx, span)
	used := p.usage().since(before)
	b.ReportMetric(100*used.api.Seconds()/span.Seconds(), "api-%core")
	b.ReportMetric(100*used.pg.Seconds()/span.Seconds(), "pg-%core")
	b.ReportMetric(RSS(p.api.Process.Pid), "api-MiB")
	user := p.client("user")
	for run := range int64(steps) {
		l.open.Add(1)
		l.sent[run].Store(time.Now().UnixNano())
		if _, err := user.Submit(ctx, l.plan(run), ""); err != nil {
			b.Fatal(err)
		}
		l.posted[run].Store(time.Now().UnixNano())
		pause(ctx, apart)
	}
	l.wait()
	cancel()
	hosts.Wait()
	l.claimed.report(b, "wake")
	l.started.report(b, "submit-to-lease")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkEmptyClaims is claims of an empty queue that do not wait, in turns
// with the same requests to a server of net/http that does nothing.
func BenchmarkEmptyClaims(b *testing.B) {
	const turns, span, asking = 4, 3 * time.Second, 16
	p := newPlane(b)
	plain, pid := bare(b)
	type contender struct {
		c    *client.Client
		pid  int
		n    atomic.Int64
		cost time.Duration
	}
	ours, theirs := &contender{c: p.client("worker"), pid: p.api.Process.Pid}, &contender{c: plain, pid: pid}
	var daemons []*daemon
	for n := range asking {
		daemons = append(daemons, p.newDaemon(n))
	}
	gate := NewGate(b, p.server)
	for turn := range 2 * turns {
		who := ours
		if turn%2 == 1 {
			who = theirs
		}
		before := CPU(who.pid)
		ctx, cancel := context.WithTimeout(b.Context(), span)
		var all sync.WaitGroup
		for i, d := range daemons {
			all.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					out, err := who.c.Claim(ctx, wire.ClaimRequest{WorkerID: d.id, Incarnation: d.incarnation, ClaimID: fmt.Sprintf("%d-%d-%d", turn, i, n),
						Max: 16, Drivers: []string{"local"}})
					if ctx.Err() != nil {
						return
					}
					if err != nil || len(out.Leases) > 0 {
						b.Errorf("%+v, %v", out, err)
						return
					}
					who.n.Add(1)
				}
			})
		}
		all.Wait()
		cancel()
		who.cost += CPU(who.pid) - before
		gate.Look()
	}
	each := func(c *contender) float64 { return float64(c.n.Load()) / (turns * span).Seconds() }
	b.ReportMetric(each(ours), "claims/s")
	b.ReportMetric(each(theirs), "bare/s")
	gate.Ratio("claims/bare", each(ours)/each(theirs))
	b.ReportMetric(micros(ours.cost, ours.n.Load()), "api-µs/claim")
	b.ReportMetric(micros(theirs.cost, theirs.n.Load()), "bare-µs/request")
	b.ReportMetric(0, "ns/op")
}
