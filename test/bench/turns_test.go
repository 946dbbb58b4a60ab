package bench

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestTurnsAlternate(t *testing.T) {
	t.Parallel()
	var order strings.Builder
	fails := 0
	rows := []*row{
		{Contender: Contender{Name: "a", Run: func(context.Context) error { order.WriteString("a"); return nil }}},
		{Contender: Contender{Name: "not there"}},
		{Contender: Contender{Name: "b", Run: func(context.Context) error {
			order.WriteString("b")
			if fails++; fails > 2 { // after the warm-up and one round
				return errors.New("broken")
			}
			return nil
		}}},
	}
	between := 0
	if err := (Turns{Warmup: 1, Rounds: 3}).take(t.Context(), rows, func() { between++ }); err != nil {
		t.Fatal(err)
	}
	if order.String() != "abababab" || between != 4 {
		t.Errorf("turns %s, %d rounds", &order, between)
	}
	if a, b := rows[0], rows[2]; len(a.Times) != 3 || a.Failed != 0 || len(b.Times) != 1 || b.Failed != 2 || b.first == nil || !math.IsInf(b.Quantile(0.5), 1) {
		t.Errorf("%d and %d failed, %d and %d did not; the median of what mostly fails is %v", a.Failed, b.Failed, len(a.Times), len(b.Times), b.Quantile(0.5))
	}
	s := &Standing{rows: rows}
	if s.Of("not there") != nil || s.Of("a") == nil {
		t.Error("who is there and who is not")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Turns{Rounds: 1, Rest: time.Minute}).take(ended, rows, func() {}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	look := func(loud, quiet int) *Gate {
		g := &Gate{}
		for i := range loud + quiet {
			cores := quietCores / 2
			if i < loud {
				cores = 1.5
			}
			g.looks = append(g.looks, cores)
		}
		return g
	}
	for _, c := range []struct {
		loud, quiet int
		want        bool
	}{{0, 1, true}, {0, 20, true}, {1, 9, true}, {2, 18, true}, {1, 0, false}, {1, 8, false}, {3, 17, false}, {0, 0, false}} {
		if got, seen := look(c.loud, c.quiet).Quiet(); got != c.want || seen == "" {
			t.Errorf("%d loud looks, %d quiet ones: %v, %s", c.loud, c.quiet, got, seen)
		}
	}
}
