package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	look       = 250 * time.Millisecond
	looksMost  = 4   // at one place, until one of them is quiet
	quietCores = 0.2 // of what others may use in a look
	busyVar    = "NOFX_BENCH_BUSY"
)

// Gate keeps ratios from being told that were measured while the machine did
// something else. It looks at the machine when all that is measured rests. What
// those have left to do ends soon and is no fault: a place is loud when each of
// some looks in a row is.
type Gate struct {
	b     *testing.B
	ours  []func() time.Duration
	looks []float64 // cores that were busy
}

// NewGate looks for the first time. ours tell the processor time of what is
// measured, where that is known: it is nobody else's.
func NewGate(b *testing.B, ours ...func() time.Duration) *Gate {
	b.Helper()
	g := &Gate{b: b, ours: ours}
	g.Look()
	return g
}

// Look stands still and sees what the machine does meanwhile.
func (g *Gate) Look() {
	g.b.Helper()
	least := 0.0
	for i := range looksMost {
		before, begun := g.others(), time.Now()
		if !pause(g.b.Context(), look) {
			return
		}
		cores := (g.others() - before).Seconds() / time.Since(begun).Seconds()
		if i == 0 || cores < least {
			least = cores
		}
		if least <= quietCores {
			break
		}
	}
	g.looks = append(g.looks, least)
}

// Quiet tells whether the machine did nothing else, one look in ten excepted,
// and what was seen, in words.
func (g *Gate) Quiet() (quiet bool, seen string) {
	loud := 0
	for _, cores := range g.looks {
		if cores > quietCores {
			loud++
		}
	}
	seen = fmt.Sprintf("others used %.2f cores at most, more than %.1f in %d of %d looks", slices.Max(append([]float64{0}, g.looks...)), quietCores, loud, len(g.looks))
	return len(g.looks) > 0 && 10*loud <= len(g.looks), seen
}

// Ratio reports one if the machine was quiet. With NOFX_BENCH_BUSY it reports it
// even so, and says in its name what it is worth.
func (g *Gate) Ratio(name string, v float64) {
	g.b.Helper()
	quiet, seen := g.Quiet()
	switch {
	case quiet:
		g.b.ReportMetric(v, name)
	case os.Getenv(busyVar) != "":
		g.b.ReportMetric(v, name+"-busy")
	default:
		g.b.Logf("no %s: the machine was not quiet, %s", name, seen)
	}
}

// others is the processor time that was used beside what is measured.
func (g *Gate) others() time.Duration {
	g.b.Helper()
	used := busy(g.b)
	for _, f := range g.ours {
		used -= f()
	}
	return used
}

// busy is the processor time that all have used since the machine started, and
// what other machines took from it.
func busy(b *testing.B) time.Duration {
	b.Helper()
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	var sum int64
	for i, text := range strings.Fields(line) {
		// cpu, user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			b.Fatalf("/proc/stat: %q: %v", line, err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / userHz
}

// pause reports whether ctx goes on after it.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
