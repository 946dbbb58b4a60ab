package api_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/wire"
)

// The control plane alone: steps from the queue to their verdict over HTTPS,
// by workers that run nothing. Submission is not timed.
func BenchmarkSteps(b *testing.B) {
	r := newRig(b)
	const perRun, workers, batch = 100, 4, 64
	step := func(i int) string { return fmt.Sprintf(`{"name":"s%d","tool":"test:echo","workspace":"step"}`, i) }
	for left := b.N; left > 0; left -= perRun {
		var steps []string
		for i := range min(left, perRun) {
			steps = append(steps, step(i))
		}
		r.submit(`[` + strings.Join(steps, ",") + `]`)
	}
	var done atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	for n := range workers {
		w := r.worker(fmt.Sprintf("host-%d", n))
		all.Go(func() {
			for i := 0; done.Load() < int64(b.N); i++ {
				out, err := w.Claim(b.Context(), wire.ClaimRequest{WorkerID: w.id, Incarnation: w.incarnation, ClaimID: fmt.Sprintf("bench-%d-%d", n, i),
					Max: batch, WaitMS: 100, Drivers: []string{"local"}})
				if err != nil {
					b.Error(err)
					return
				}
				batches := make([]wire.JournalBatch, len(out.Leases))
				for j, l := range out.Leases {
					batches[j] = wire.JournalBatch{Fence: l.Fence, Records: records(exit(0), "{}")}
				}
				if _, err := w.ship(batches...); err != nil {
					b.Error(err)
					return
				}
				done.Add(int64(len(batches)))
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
}

// One step after the other on an idle system: submitted, claimed by a claim
// that waits, and ended.
func BenchmarkLatency(b *testing.B) {
	r := newRig(b)
	w := r.worker("host")
	c, err := client.New(client.Options{BaseURL: r.url, Key: r.keys["acme user"], RootCAs: r.roots})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	var claimed time.Duration
	for i := 0; b.Loop(); i++ {
		got := make(chan []wire.Lease, 1)
		go func() {
			out, err := w.Claim(b.Context(), wire.ClaimRequest{WorkerID: w.id, Incarnation: w.incarnation, ClaimID: fmt.Sprintf("lat-%d-%d", b.N, i),
				Max: 1, WaitMS: 5000, Drivers: []string{"local"}})
			if err != nil {
				b.Error(err)
			}
			got <- out.Leases
		}()
		begin := time.Now()
		if _, err := c.Submit(b.Context(), wire.SubmitRun{Plan: wire.Plan{Goal: "g", Steps: []wire.PlanStep{{Name: "a", Tool: "test:echo"}}}}, ""); err != nil {
			b.Fatal(err)
		}
		leases := <-got
		claimed += time.Since(begin)
		if len(leases) != 1 {
			b.Fatalf("%d leases", len(leases))
		}
		w.finish(leases[0], exit(0), "{}")
	}
	b.ReportMetric(float64(claimed.Microseconds())/float64(b.N), "µs-to-claim/op")
}
