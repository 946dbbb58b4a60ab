package local

import (
	"context"
	"encoding/json"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/nofx-run/nofx/test/bench"
)

// BenchmarkHeap is a sandbox, and a start of the driver with its spawner, by a
// process that has touched 1 GiB of memory and by one that has not. A process
// that clones itself pays for every page; these are cloned from the spawner,
// which stays small, and the spawner is started without a copy.
func BenchmarkHeap(b *testing.B) {
	const (
		size   = 1 << 30
		blocks = 4 // of each, in turns
		each   = 50
		starts = 20
	)
	d := newDriver(b)
	spec := benchSpec(b, 0)
	gate := bench.NewGate(b)
	box, start := map[bool]*bench.Sample{true: {}, false: {}}, map[bool]*bench.Sample{true: {}, false: {}}
	timed := func(s *bench.Sample, f func() error) {
		begun := time.Now()
		if err := f(); err != nil {
			s.Failed++
			b.Log(err)
			return
		}
		s.Times = append(s.Times, time.Since(begun))
	}
	cfg := config(b)
	for turn := range 2 * blocks {
		heavy := turn%2 == 1
		var heap []byte
		if heavy {
			heap = make([]byte, size)
			for i := 0; i < size; i += os.Getpagesize() {
				heap[i] = 1
			}
		}
		for i := range each {
			s := spec
			s.ID = "heap-" + random()
			one := func() error { return oneSandbox(b.Context(), d, s) }
			if i < each/10 { // warm up
				if err := one(); err != nil {
					b.Fatal(err)
				}
				continue
			}
			timed(box[heavy], one)
		}
		for range starts {
			timed(start[heavy], func() error { return startOnce(b.Context(), cfg) })
		}
		if heavy && bench.RSS(os.Getpid()) < size>>20 {
			b.Fatalf("the process has %.0f MiB", bench.RSS(os.Getpid()))
		}
		runtime.KeepAlive(heap)
		debug.FreeOSMemory()
		gate.Look()
	}
	for name, s := range map[string]map[bool]*bench.Sample{"sandbox": box, "driver-start": start} {
		b.ReportMetric(s[false].Quantile(0.5), name+"-p50-ms")
		gate.Ratio(name+"-with-1GiB/without", s[true].Quantile(0.5)/s[false].Quantile(0.5))
	}
	b.ReportMetric(0, "ns/op")
}

// startOnce has a driver of its own take its configuration, for which it starts
// its spawner and builds the root file system.
func startOnce(ctx context.Context, cfg json.RawMessage) error {
	d := New()
	defer d.Close()
	return d.Configure(ctx, cfg)
}
