package cgroup

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// BenchmarkCaps is what the caps of one step cost: its groups made, limited,
// read once and removed.
func BenchmarkCaps(b *testing.B) {
	tree := open(b)
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		begun := time.Now()
		g := tree.Group("acme", fmt.Sprint("a", i))
		if err := g.Make(step.Resources{CPU: 1, MemoryMB: 256, Pids: 64}); err != nil {
			b.Fatal(err)
		}
		if _, err := g.Counters(); err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), time.Minute)
		err := g.Remove(ctx)
		cancel()
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
