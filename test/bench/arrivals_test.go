package bench

import (
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/test/e2e/harness"
)

// BenchmarkArrivals is runs of one step that arrive at a fixed rate, however
// long those before them take, through the whole system. Times count from when
// a run was due.
func BenchmarkArrivals(b *testing.B) {
	const (
		rate = 30 // a second, well below what is reached in a closed loop
		lead = 60 // runs that are not counted
		runs = 600
	)
	s := harness.Start(b)
	gate := NewGate(b, used(s))
	var all samples
	var group sync.WaitGroup
	begin := time.Now()
	for i := range lead + runs {
		due := begin.Add(time.Duration(i) * time.Second / rate)
		if !pause(b.Context(), time.Until(due)) {
			break
		}
		group.Go(func() {
			err := finish(b.Context(), s, trueStep("a"))
			switch {
			case i < lead:
			case err != nil:
				b.Log(err)
				all.fail()
			default:
				all.add(time.Since(due))
			}
		})
	}
	group.Wait()
	gate.Look()
	standing := &Standing{Gate: gate}
	standing.Add("step", all.s)
	standing.Report("30 runs of one step arrive each second")
	b.ReportMetric(all.s.Quantile(0.99), "step-p99-ms")
	b.ReportMetric(all.s.Quantile(1), "step-max-ms")
}
