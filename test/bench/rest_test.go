package bench

import (
	"testing"
	"time"

	"github.com/nofx-run/nofx/test/e2e/harness"
)

// BenchmarkRest is the resident memory of each of the three programs when the
// system has started and has nothing to do, and when it has done some steps and
// has nothing to do again.
func BenchmarkRest(b *testing.B) {
	const (
		settle = 5 * time.Second
		steps  = 50
	)
	s := harness.Start(b)
	for _, when := range []string{"fresh", "used"} {
		if when == "used" {
			for range steps {
				if err := finish(b.Context(), s, trueStep("a")); err != nil {
					b.Fatal(err)
				}
			}
		}
		if !pause(b.Context(), settle) {
			return
		}
		for _, name := range []string{"nofxd", "nofx-api", "nofx-driver-local"} {
			b.ReportMetric(RSS(s.Pid(name)), name+"-"+when+"-MiB")
		}
	}
	b.ReportMetric(0, "ns/op")
}
