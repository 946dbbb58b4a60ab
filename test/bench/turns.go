package bench

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// lookEvery is how often turns are interrupted for a look at the machine.
const lookEvery = 3 * time.Second

// Contender is one of those that are measured side by side.
type Contender struct {
	Name  string
	Lacks string                      // what it does not do that the first one does
	Run   func(context.Context) error // one turn; nil = it is not there
}

// Turns has contenders take turns, A B C A B C, in one process, so that what
// the machine does besides meets all of them alike.
type Turns struct {
	Warmup int           // rounds before those that count
	Rounds int           // that count
	Rest   time.Duration // before each turn, in which what the turn before left is cleared away

	Ours []func() time.Duration // for the gate: processor time of what is measured
}

// Standing is how the turns went.
type Standing struct {
	Gate *Gate
	rows []*row
}

type row struct {
	Contender
	Sample
	first error // that a turn of it failed with
}

// Run measures. A turn that fails counts as one without end.
func (t Turns) Run(b *testing.B, contenders ...Contender) *Standing {
	b.Helper()
	s := &Standing{Gate: NewGate(b, t.Ours...)}
	for _, c := range contenders {
		s.rows = append(s.rows, &row{Contender: c})
	}
	looked := time.Now()
	err := t.take(b.Context(), s.rows, func() {
		if time.Since(looked) > lookEvery {
			s.Gate.Look()
			looked = time.Now()
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	s.Gate.Look()
	for _, r := range s.rows {
		if r.first != nil {
			b.Logf("%s: %v", r.Name, r.first)
		}
	}
	return s
}

// take has all take their turns. between is called after each round.
func (t Turns) take(ctx context.Context, rows []*row, between func()) error {
	for round := range t.Warmup + t.Rounds {
		for _, r := range rows {
			if r.Run == nil {
				continue
			}
			if !pause(ctx, t.Rest) {
				return context.Cause(ctx)
			}
			begun := time.Now()
			err := r.Run(ctx)
			took := time.Since(begun)
			if err != nil && r.first == nil {
				r.first = err
			}
			switch {
			case round < t.Warmup:
			case err != nil:
				r.Failed++
			default:
				r.Times = append(r.Times, took)
			}
		}
		between()
	}
	return nil
}

// Add puts a sample beside those that took turns: a part of one of them, say.
func (s *Standing) Add(name string, sample Sample) {
	s.rows = append(s.rows, &row{Contender: Contender{Name: name, Run: func(context.Context) error { return nil }}, Sample: sample})
}

// Of is the sample of a contender, nil where it is not there.
func (s *Standing) Of(name string) *Sample {
	for _, r := range s.rows {
		if r.Name == name && r.Run != nil {
			return &r.Sample
		}
	}
	return nil
}

// Ratio reports the median of one by the median of another, under the name
// "one/other".
func (s *Standing) Ratio(one, other string) {
	a, b := s.Of(one), s.Of(other)
	if a == nil || b == nil {
		return // the table says so
	}
	s.Gate.Ratio(one+"/"+other, a.Quantile(0.5)/b.Quantile(0.5))
}

// Report prints a table of all and reports the medians as metrics.
func (s *Standing) Report(notes ...string) {
	b := s.Gate.b
	b.Helper()
	_, seen := s.Gate.Quiet()
	var text strings.Builder
	fmt.Fprintln(&text, strings.Join(append([]string{Machine(), seen}, notes...), "\n"))
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tn\tp10 ms\tp50 ms\tp90 ms\tp99 ms\tmax ms\tfailed\tdoes not have")
	for _, r := range s.rows {
		if r.Run == nil {
			fmt.Fprintf(w, "%s\tnot there\n", r.Name)
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t", r.Name, len(r.Times)+r.Failed)
		for _, q := range []float64{0.1, 0.5, 0.9, 0.99, 1} {
			fmt.Fprintf(w, "%.*f\t", digits(r.Quantile(q)), r.Quantile(q))
		}
		fmt.Fprintf(w, "%d\t%s\n", r.Failed, r.Lacks)
		b.ReportMetric(r.Quantile(0.5), r.Name+"-p50-ms")
	}
	_ = w.Flush() // into memory
	show(b.Name(), text.String())
	b.ReportMetric(0, "ns/op") // the mean over everything says nothing
}

// digits are those after the point that a time in milliseconds is worth.
func digits(ms float64) int {
	if ms < 10 {
		return 3
	}
	return 1
}

// show prints a table above the benchmark's own line. A benchmark's log would cut
// it after ten lines.
func show(name, table string) { fmt.Fprintf(os.Stdout, "\n%s\n%s\n", name, table) }
