package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// leftovers are half control groups, half workspaces with something in them.
const leftovers = 1000

// BenchmarkSweep is `nofx sweep` with a thousand things that nobody has.
func BenchmarkSweep(b *testing.B) {
	s := harness.Start(b)
	data := filepath.Join(s.Dir, "worker")
	if r := s.Nofx("", "exec", "--", "/bin/true"); r.Code != 0 { // makes the tenant's groups
		b.Fatalf("%+v", r)
	}
	parents, err := filepath.Glob("/sys/fs/cgroup/*/" + s.Installation() + ".slice/nofx-default.slice")
	if err != nil {
		b.Fatal(err)
	}
	if len(parents) == 0 { // v2
		parents = []string{"/sys/fs/cgroup/" + s.Installation() + ".slice/nofx-default.slice"}
	}
	for i := range leftovers / 2 {
		for _, p := range parents {
			if err := os.Mkdir(filepath.Join(p, fmt.Sprint("att_left", i)), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		dir := filepath.Join(data, "work", fmt.Sprint("run_left", i), "src", "deep")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("left"), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	begun := time.Now()
	r := s.Nofx("", "sweep", "--json", "--data", data)
	took := time.Since(begun)
	var report wire.SweepReport
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil || r.Code != 0 {
		b.Fatalf("%+v, %v", r, err)
	}
	removed := 0
	for _, i := range report.Items {
		if i.Removed {
			removed++
		}
	}
	b.ReportMetric(took.Seconds(), "s")
	b.ReportMetric(float64(removed), "removed")
	b.ReportMetric(0, "ns/op")
}
