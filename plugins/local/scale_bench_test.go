package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/bench"
)

const (
	idleSandboxes = 500
	burst         = 100
)

// crowd are sandboxes that stand side by side, each with groups of its own.
type crowd struct {
	d     driver.Driver
	specs []driver.Spec
	made  []driver.Handle
}

// newCrowd creates n sandboxes, so many at once, and counts those that failed.
func newCrowd(b *testing.B, n, atOnce int) (c *crowd, l *lap, failed int) {
	b.Helper()
	d := New()
	b.Cleanup(d.Close)
	c, l = &crowd{d: drivertest.Connect(b, d)}, &lap{}
	if err := c.d.Configure(b.Context(), config(b)); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		s := driver.Spec{ID: fmt.Sprintf("crowd-%d", i), Tags: driver.Tags{Owner: "bench", ID: "x"}, Network: step.NetworkNone, Resources: step.Resources{MemoryMB: 256, Pids: 64}}
		newHost().Fill(b, &s)
		c.specs = append(c.specs, s)
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	var next atomic.Int64
	for range atOnce {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				begun := time.Now()
				h, err := c.d.Create(b.Context(), c.specs[i])
				mu.Lock()
				if err != nil {
					failed++
					b.Log(err)
				} else {
					c.made, l.took = append(c.made, h), append(l.took, time.Since(begun))
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	b.Cleanup(func() {
		for _, h := range c.made {
			if err := c.d.Destroy(context.WithoutCancel(b.Context()), h); err != nil {
				b.Errorf("destroy: %v", err)
			}
		}
	})
	return c, l, failed
}

// BenchmarkIdle has 500 sandboxes in which nothing runs: the memory of what is
// NOFX's own in each, its supervisor and its first process.
func BenchmarkIdle(b *testing.B) {
	c, _, failed := newCrowd(b, idleSandboxes, 16)
	var total int64
	processes := 0
	for _, s := range c.specs {
		for _, g := range []driver.Cgroup{s.Host.Cgroup, s.Host.Supervisor} {
			for _, pid := range groupMembers(b, g) {
				total += pss(b, pid)
				processes++
			}
		}
	}
	b.ReportMetric(float64(total)/1024/idleSandboxes, "MiB/sandbox")
	b.ReportMetric(float64(processes)/idleSandboxes, "processes/sandbox")
	b.ReportMetric(float64(failed), "failed")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkBurst creates a hundred sandboxes at the same moment.
func BenchmarkBurst(b *testing.B) {
	_, l, failed := newCrowd(b, burst, burst)
	l.report(b)
	b.ReportMetric(float64(failed), "failed")
	b.ReportMetric(0, "ns/op")
}

// hostile forks, burns, allocates and writes as much as it may.
const hostile = `for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done
(while :; do head -c 50000000 /dev/zero | tail -c 40000000 >/dev/null; done) &
(while :; do dd if=/dev/zero of=/tmp/fill bs=1M count=32 2>/dev/null; rm -f /tmp/fill; done) &
while :; do (sleep 0.01 & sleep 0.01 & sleep 0.01 & wait); done`

// BenchmarkNeighbour is what a step notices of one beside it that does its
// worst within one core, 256 MiB and 64 tasks.
func BenchmarkNeighbour(b *testing.B) {
	pulse := filepath.Join(b.TempDir(), "pulse")
	if out, err := exec.Command("gcc", "-static", "-O1", "-o", pulse, "testdata/pulse.c").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	d := newDriver(b)
	quiet := newBox(b, d)
	quiet.put(b, "pulse", pulse)
	beat := func() (p50, p99 float64) {
		r := quiet.exec(b, command("/workspace/pulse"))
		if _, err := fmt.Sscan(r.out, &p50, &p99); err != nil {
			b.Fatalf("%q %q %+v", r.out, r.err, r.exit)
		}
		return p50, p99
	}
	beat()
	gate := bench.NewGate(b)
	p50, p99 := beat()
	loud := newBox(b, d, func(s *driver.Spec) { s.Resources = step.Resources{CPU: 1, MemoryMB: 256, Pids: 64} })
	done := make(chan struct{})
	ctx, stop := context.WithCancel(b.Context())
	started := make(chan struct{})
	go func() {
		defer close(done)
		s := command("/bin/sh", "-c", "echo on; "+hostile)
		s.Timeout = time.Minute
		var once sync.Once
		_ = loud.d.Exec(ctx, loud.h, s, func(driver.ExecEvent) error { once.Do(func() { close(started) }); return nil })
	}()
	<-started
	h50, h99 := beat()
	stop()
	<-done
	gate.Look()
	b.ReportMetric(p50, "quiet-p50-µs")
	b.ReportMetric(p99, "quiet-p99-µs")
	b.ReportMetric(h50, "beside-p50-µs")
	b.ReportMetric(h99, "beside-p99-µs")
	gate.Ratio("p50-ratio", h50/p50)
	gate.Ratio("p99-ratio", h99/p99)
	b.ReportMetric(0, "ns/op")
}

func groupMembers(b *testing.B, g driver.Cgroup) []string {
	b.Helper()
	dir := g.V2
	if dir == "" {
		dir = g.V1["pids"]
	}
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		b.Fatal(err)
	}
	return strings.Fields(string(raw))
}

// pss is a process's share of memory in KiB, pages that it shares counted in
// part.
func pss(b *testing.B, pid string) int64 {
	b.Helper()
	raw, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "\nPss:")
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb
}
