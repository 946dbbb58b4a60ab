package cgroup

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/volume"
	"github.com/nofx-run/nofx/sdk/step"
)

// BenchmarkIOCap is what a cap on block devices adds to those: the devices looked
// for, and each bounded. Groups are made and removed beside the clock.
func BenchmarkIOCap(b *testing.B) {
	tree, dir := open(b), b.TempDir()
	var took, plain, bounded []time.Duration
	for i := 0; b.Loop(); i++ {
		g := tree.Group("acme", fmt.Sprint("a", i))
		if err := g.Make(step.Resources{CPU: 1, MemoryMB: 256, Pids: 64}); err != nil {
			b.Fatal(err)
		}
		if i%2 == 0 {
			begun := time.Now()
			devices, err := volume.Below(dir)
			if err != nil {
				b.Fatal(err)
			}
			names := make([]string, len(devices))
			for i, d := range devices {
				names[i] = d.String()
			}
			if err := g.LimitIO(names, 500); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), time.Minute)
		begun := time.Now()
		err := g.Remove(ctx)
		cancel()
		if err != nil {
			b.Fatal(err)
		}
		if i%2 == 0 {
			bounded = append(bounded, time.Since(begun))
		} else {
			plain = append(plain, time.Since(begun))
		}
	}
	for name, all := range map[string][]time.Duration{"set": took, "remove-plain": plain, "remove-bounded": bounded} {
		slices.Sort(all)
		if len(all) > 0 {
			b.ReportMetric(float64(all[len(all)/2].Microseconds()), name+"-p50-µs")
		}
	}
}
