package chaos

import (
	"math/rand/v2"
	"slices"
	"time"
)

// clockStep is the fault of the database's clock: it steps, and back when the
// fault is mended. Every other clock goes on.
const clockStep = "step clock"

const (
	clockPace = 8 * time.Second // between two, on average
	mostStep  = time.Hour
)

// clockSteps are those of a seed beside its other faults. They come from a draw of
// their own, so that a seed has the other faults that it had without them.
func clockSteps(seed uint64, within time.Duration, others []Fault) []Fault {
	all := kinds()
	k := all[slices.IndexFunc(all, func(k kind) bool { return k.name == clockStep })]
	alone := map[string]bool{}
	for _, o := range all {
		alone[o.name] = o.alone
	}
	r := rand.New(rand.NewPCG(seed, 1))
	var steps []Fault
	at := time.Duration(0)
	for {
		at += time.Duration(r.Int64N(int64(2 * clockPace)))
		f := Fault{At: at, Kind: k.name, Target: k.targets[0], Pick: r.Uint64(), For: k.least + time.Duration(r.Int64N(int64(k.most-k.least)))}
		at += f.For
		if at > within {
			return steps
		}
		if !slices.ContainsFunc(others, func(o Fault) bool { return alone[o.Kind] && f.At < o.At+o.For && o.At < at }) {
			steps = append(steps, f)
		}
	}
}

// aheadOf is how far the clock of a fault is ahead of the machine's while it lasts,
// or behind.
func aheadOf(f Fault) time.Duration {
	by := time.Second + time.Duration(f.Pick/2%uint64(mostStep-time.Second)).Truncate(time.Second)
	if f.Pick%2 == 0 {
		return -by
	}
	return by
}
