package container

import (
	"context"
	"fmt"
	"os/exec"
	"sort"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/internal/testhost"
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
		return float64(l.took[min(len(l.took)-1, int(p*float64(len(l.took))))].Microseconds()) / 1000
	}
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
}

// BenchmarkContainer/grpc is what the daemon sees: a fresh container, one
// program in it, its end, and nothing left. docker-run is the engine's own
// client with the same flags.
func BenchmarkContainer(b *testing.B) {
	b.Run("docker-run", func(b *testing.B) {
		workspace := b.TempDir()
		var l lap
		for b.Loop() {
			l.run(func() {
				cmd := exec.Command("/usr/bin/docker", "-H", docker.Host(), "run", "--rm", "--network", "none", "--read-only",
					"--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "512m", "--memory-swap", "512m", "--pids-limit", "64",
					"--ipc", "private", "--cgroupns", "private", "--tmpfs", "/tmp", "--tmpfs", "/home/step", "--user", "1900000001",
					"-v", workspace+":/workspace", testdocker.Image, "/bin/true")
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			})
		}
		l.report(b)
	})
	b.Run("grpc", func(b *testing.B) {
		d := newDriver()
		b.Cleanup(d.Close)
		c := drivertest.Connect(b, d)
		if err := c.Configure(context.Background(), config(b)); err != nil {
			b.Fatal(err)
		}
		spec := driver.Spec{Tags: driver.Tags{Owner: "bench", ID: "x"}, Network: step.NetworkNone, Until: driver.After(time.Hour), Resources: step.Resources{MemoryMB: 512, Pids: 64}}
		testhost.New().Fill(b, &spec)
		var l, bounded lap
		for i := 0; b.Loop(); i++ {
			spec.ID = fmt.Sprintf("bench-%d", i)
			spec.Resources.IOMBs = 0
			l.run(func() { oneStep(b, c, spec) })
			spec.ID, spec.Resources.IOMBs = spec.ID+"-io", 500
			bounded.run(func() { oneStep(b, c, spec) })
		}
		l.report(b)
		sort.Slice(bounded.took, func(i, k int) bool { return bounded.took[i] < bounded.took[k] })
		b.ReportMetric(float64(bounded.took[len(bounded.took)/2].Microseconds())/1000, "p50-ms-with-io-cap")
	})
}

func oneStep(b *testing.B, d driver.Driver, spec driver.Spec) {
	ctx := context.Background()
	h, err := d.Create(ctx, spec)
	if err != nil {
		b.Fatal(err)
	}
	code := -1
	err = d.Exec(ctx, h, driver.ExecSpec{ID: "main", Argv: []string{"/bin/true"}, Env: []string{"PATH=/bin"}}, func(e driver.ExecEvent) error {
		if e.Exit != nil {
			code = e.Exit.Code
		}
		return nil
	})
	if err != nil || code != 0 {
		b.Fatalf("exit %d, %v", code, err)
	}
	if err := d.Destroy(ctx, h); err != nil {
		b.Fatal(err)
	}
}
