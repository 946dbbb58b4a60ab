package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/sdk/step"
)

// lap measures single runs, so that a percentile can be told beside the mean.
type lap struct{ took []time.Duration }

func (l *lap) run(f func()) {
	started := time.Now()
	f()
	l.took = append(l.took, time.Since(started))
}

func (l *lap) report(b *testing.B) {
	b.Helper()
	sort.Slice(l.took, func(i, k int) bool { return l.took[i] < l.took[k] })
	at := func(p float64) float64 {
		return float64(l.took[min(len(l.took)-1, int(p*float64(len(l.took))))].Microseconds())
	}
	b.ReportMetric(at(0.5), "p50-µs")
	b.ReportMetric(at(0.99), "p99-µs")
}

func trueSpec(id string) driver.ExecSpec {
	return driver.ExecSpec{ID: id, Argv: []string{"/bin/true"}, Env: []string{"PATH=/usr/bin:/bin"}, OutputLimit: 1 << 20, Timeout: time.Minute}
}

// oneSandbox is the work that is measured: a fresh sandbox with its control
// groups, one program in it, its end, and nothing left.
func oneSandbox(ctx context.Context, d driver.Driver, spec driver.Spec) error {
	h, err := d.Create(ctx, spec)
	if err != nil {
		return err
	}
	var exit *driver.Exit
	err = d.Exec(ctx, h, trueSpec("main"), func(e driver.ExecEvent) error {
		if e.Exit != nil {
			x := *e.Exit
			exit = &x
		}
		return nil
	})
	if err != nil {
		return err
	}
	if exit == nil || exit.Cause != step.CauseExit || exit.Code != 0 {
		return fmt.Errorf("/bin/true ended with %+v", exit)
	}
	return d.Destroy(ctx, h)
}

func benchSpec(b *testing.B, workspaceUID uint32) driver.Spec {
	s := driver.Spec{Tags: driver.Tags{Owner: "bench", ID: "x"}, Network: step.NetworkNone, Until: driver.After(time.Hour), Resources: step.Resources{MemoryMB: 512, Pids: 64}}
	newHost().Fill(b, &s)
	if workspaceUID > 0 {
		s.Host.Workspace, s.Host.WorkspaceUID = b.TempDir(), workspaceUID
		if err := os.Chown(s.Host.Workspace, int(workspaceUID), int(workspaceUID)); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

func benchSandbox(b *testing.B, wrap func(driver.Driver) driver.Driver, workspaceUID uint32, change ...func(*driver.Spec)) {
	d := New()
	b.Cleanup(d.Close)
	c := wrap(d)
	if err := c.Configure(context.Background(), config(b, withGVisor)); err != nil {
		b.Fatal(err)
	}
	spec := benchSpec(b, workspaceUID)
	for _, f := range change {
		f(&spec)
	}
	run := func(i int) {
		spec.ID = fmt.Sprintf("bench-%d", i)
		if err := oneSandbox(context.Background(), c, spec); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 20 {
		run(-1 - i)
	}
	var l lap
	for i := 0; b.Loop(); i++ {
		l.run(func() { run(i) })
	}
	l.report(b)
}

func direct(d driver.Driver) driver.Driver { return d }

// BenchmarkSandbox/grpc is what the daemon sees; compare with bwrap and exec.
func BenchmarkSandbox(b *testing.B) {
	b.Run("exec", func(b *testing.B) { benchCommand(b, "/bin/true") })
	b.Run("bwrap", func(b *testing.B) { benchCommand(b, bwrap()...) })
	b.Run("direct", func(b *testing.B) { benchSandbox(b, direct, 0) })
	b.Run("grpc", func(b *testing.B) {
		benchSandbox(b, func(d driver.Driver) driver.Driver { return drivertest.Connect(b, d) }, 0)
	})
	b.Run("grpc-idmapped", func(b *testing.B) {
		benchSandbox(b, func(d driver.Driver) driver.Driver { return drivertest.Connect(b, d) }, 1800000001)
	})
	b.Run("grpc-network", func(b *testing.B) { // with its gateway's start and end
		benchSandbox(b, func(d driver.Driver) driver.Driver { return drivertest.Connect(b, d) }, 0, func(s *driver.Spec) { s.Network = step.NetworkOpen })
	})
}

// BenchmarkSandboxes keeps sixteen sandboxes going at once, as many as a host
// has slots in the benchmark of the whole system: what that could reach at most.
func BenchmarkSandboxes(b *testing.B) {
	d := New()
	b.Cleanup(d.Close)
	c := drivertest.Connect(b, d)
	if err := c.Configure(b.Context(), config(b)); err != nil {
		b.Fatal(err)
	}
	spec := benchSpec(b, 0)
	var next atomic.Int64
	b.SetParallelism(max(1, 16/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s := spec
			s.ID = fmt.Sprintf("bench-%d", next.Add(1))
			if err := oneSandbox(b.Context(), c, s); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sandboxes/s")
}

// BenchmarkGVisor/grpc is what the daemon sees of a sandbox with a kernel of its
// own; runsc-run is gVisor's own way to run one program, with the same flags
// and the least of bundles.
func BenchmarkGVisor(b *testing.B) {
	b.Run("runsc-run", func(b *testing.B) {
		benchCommand(b, runscRun(b)...)
	})
	b.Run("grpc", func(b *testing.B) {
		benchSandbox(b, func(d driver.Driver) driver.Driver { return drivertest.Connect(b, d) }, 0, func(s *driver.Spec) { s.Isolation = driver.IsolationGVisor })
	})
	b.Run("grpc-network", func(b *testing.B) { // with its device, and its gateway's start and end
		benchSandbox(b, func(d driver.Driver) driver.Driver { return drivertest.Connect(b, d) }, 0, func(s *driver.Spec) {
			s.Isolation, s.Network = driver.IsolationGVisor, step.NetworkOpen
		})
	})
}

func benchCommand(b *testing.B, argv ...string) {
	var l lap
	for b.Loop() {
		l.run(func() {
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		})
	}
	l.report(b)
}
