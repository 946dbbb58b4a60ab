package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"
)

// throughput is one whose rate is measured: clients that each ask for the next
// thing when they have the last.
type throughput struct {
	name    string
	each    int // things that one call brings
	clients int
	ask     func(context.Context) error

	took   samples
	failed atomic.Int64
	rates  []float64 // one a turn, things a second
}

func (t *throughput) median() float64 {
	sorted := slices.Sorted(slices.Values(t.rates))
	return sorted[len(sorted)/2]
}

// turn keeps the clients going for a span. Calls that were made in it are
// waited for, and their time counts.
func (t *throughput) turn(b *testing.B, span time.Duration) {
	var done atomic.Int64
	var all sync.WaitGroup
	begun := time.Now()
	for range t.clients {
		all.Go(func() {
			for time.Since(begun) < span && b.Context().Err() == nil {
				asked := time.Now()
				if err := t.ask(b.Context()); err != nil {
					if t.failed.Add(1) == 1 {
						b.Logf("%s: %v", t.name, err)
					}
					t.took.fail()
					continue
				}
				t.took.add(time.Since(asked))
				done.Add(int64(t.each))
			}
		})
	}
	all.Wait()
	t.rates = append(t.rates, float64(done.Load())/time.Since(begun).Seconds())
}

// race has them take turns after one that does not count, reports the medians of
// their rates, and prints a table.
func race(b *testing.B, ours func() time.Duration, turns int, span time.Duration, contenders []*throughput) *Gate {
	b.Helper()
	gate := NewGate(b, ours)
	for turn := range 1 + turns {
		for _, t := range contenders {
			if turn == 0 {
				t.turn(b, span/4)
				t.rates, t.took = nil, samples{}
				continue
			}
			t.turn(b, span)
			gate.Look()
		}
	}
	_, seen := gate.Quiet()
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n%s\n", Machine(), seen)
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tturns\tclients\tleast/s\tmedian/s\tmost/s\tcall p50 ms\tp90 ms\tp99 ms\tmax ms\tfailed")
	for _, t := range contenders {
		s := &t.took.s
		fmt.Fprintf(w, "%s\t%d\t%d\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\n", t.name, turns, t.clients, slices.Min(t.rates), t.median(), slices.Max(t.rates),
			s.Quantile(0.5), s.Quantile(0.9), s.Quantile(0.99), s.Quantile(1), s.Failed)
		b.ReportMetric(t.median(), t.name+"/s")
	}
	_ = w.Flush() // into memory
	show(b.Name(), text.String())
	b.ReportMetric(0, "ns/op")
	return gate
}
