package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nofx-run/nofx/internal/failpoint"
)

// Lease and heartbeat of the fleet. The lease is short so that it ends within a
// fault, and five heartbeats long, so that a busy machine does not lose one by
// itself.
const (
	lease     = 5 * time.Second
	heartbeat = time.Second
)

// The fleet's shape.
const (
	apis  = 2
	hosts = 3
	full  = 2 // the host whose disk is filled
	ahead = 1 // the host whose clock is
)

// Fault is one thing that goes wrong.
type Fault struct {
	At     time.Duration // since the load began
	For    time.Duration // until it is mended
	Kind   string
	Target string // a process, or a link
	Pick   uint64 // which of several processes
}

func (f Fault) String() string {
	return fmt.Sprintf("%s of %s for %v", f.Kind, f.Target, f.For.Round(10*time.Millisecond))
}

// kind is a sort of fault.
type kind struct {
	name    string
	weight  int
	targets []string
	least   time.Duration
	most    time.Duration
	alone   bool // nothing else is wrong meanwhile
}

const (
	short = lease / 5
	long  = 5 * lease / 2 // leases are lost
)

func kinds() []kind {
	var api, host, link []string
	for i := range apis {
		api = append(api, fmt.Sprintf("api-%d", i))
		link = append(link, fmt.Sprintf("link api-%d postgres", i), fmt.Sprintf("link clients api-%d", i))
	}
	for i := range hosts {
		host = append(host, fmt.Sprintf("host-%d", i))
		// Daemons' links are hit more often than each other.
		link = append(link, fmt.Sprintf("link host-%d", i), fmt.Sprintf("link host-%d", i))
	}
	postgres := []string{"postgres"}
	return []kind{
		{"kill api", 4, api, 0, lease, false},
		{"kill api at a commit", 3, api, lease, 3 * lease / 2, false},
		{"stop api", 3, api, short, 2 * lease, false},
		{"drain api", 1, api, 0, lease / 2, false},
		{"kill daemon", 6, host, 0, 2 * lease, false},
		{"kill daemon at a commit", 5, host, lease, 3 * lease / 2, false},
		{"stop daemon", 4, host, short, long, false},
		{"drain daemon", 2, host, 0, lease, false},
		{"kill plugin", 5, host, 0, 0, false},
		{"stop plugin", 3, host, short, long, false},
		{"kill supervisor", 4, host, 0, 0, false},
		{"stop supervisor", 1, host, short, lease / 2, true},
		{"kill backend", 2, postgres, 0, 0, false},
		{"stop backend", 2, postgres, short, 2 * lease, false},
		{"stop postmaster", 1, postgres, short, 2 * lease, false},
		{"kill postmaster", 2, postgres, 0, lease / 2, false},
		{"restart postgres", 1, postgres, 0, lease / 2, false},
		{"crash postgres", 1, postgres, 0, lease / 2, false},
		{"delay", 4, link, short, long, false},
		{"starve", 3, link, short, long, false},
		{"cut", 4, link, short, long, false},
		{"drop both ways", 5, link, short, long, false},
		{"drop requests", 4, link, short, long, false},
		{"drop answers", 5, link, short, long, false},
		{"turn", 3, []string{"link host-0", "link host-1", "link host-2"}, short, long, false},
		{"fill disk", 3, []string{fmt.Sprintf("host-%d", full)}, short, long, false},
		{clockStep, 0, []string{"postgres's clock"}, short, 2 * lease, false}, // by a draw of its own
	}
}

// places are where a process dies at a commit: just before one, or just after it,
// before anybody knows. Those of a step belong to the first that is called so and
// comes by.
func places(target string, pick uint64) string {
	api := []string{
		failpoint.RunCommitted, failpoint.VerdictStored + "@s0", failpoint.VerdictStored + "@s1",
		failpoint.VerdictCommitted + "@s0", failpoint.VerdictCommitted + "@s1",
	}
	daemon := []string{
		failpoint.Claim, failpoint.Claimed + "@s0", failpoint.Claimed + "@s1", failpoint.Created + "@s0", failpoint.Created + "@s1",
		failpoint.Output + "@s0", failpoint.Exited + "@s0", failpoint.Exited + "@s1", failpoint.Uploading + "@s0",
		failpoint.Reported + "@s0", failpoint.Destroyed + "@s0", failpoint.Cancelling + "@s0",
	}
	if strings.HasPrefix(target, "api-") {
		return api[pick%uint64(len(api))]
	}
	return daemon[pick%uint64(len(daemon))]
}

// between two faults, on average.
const pace = 1500 * time.Millisecond

// Schedule is what goes wrong within a time, by a seed, in order. No target has two
// faults at once.
func Schedule(seed uint64, within time.Duration) []Fault {
	faults := draw(seed, within)
	faults = append(faults, clockSteps(seed, within, faults)...)
	slices.SortStableFunc(faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return faults
}

// draw is all but the steps of the clock.
func draw(seed uint64, within time.Duration) []Fault {
	r := rand.New(rand.NewPCG(seed, 0))
	all := kinds()
	total := 0
	for _, k := range all {
		total += k.weight
	}
	busy := map[string]time.Duration{} // until then
	var faults []Fault
	var last, free time.Duration // the end of all faults so far; before free nothing else may begin
	for at := pace; ; at += time.Duration(r.Int64N(int64(2 * pace))) {
		n := r.IntN(total)
		i := slices.IndexFunc(all, func(k kind) bool { n -= k.weight; return n < 0 })
		k := all[i]
		f := Fault{At: at, Kind: k.name, Target: k.targets[r.IntN(len(k.targets))], Pick: r.Uint64(), For: k.least}
		if k.most > k.least {
			f.For += time.Duration(r.Int64N(int64(k.most - k.least)))
		}
		if f.At+f.For > within {
			return faults
		}
		if f.At < free || busy[f.Target] > f.At || k.alone && last > f.At {
			continue
		}
		faults = append(faults, f)
		busy[f.Target] = f.At + f.For
		last = max(last, f.At+f.For)
		if k.alone {
			free = f.At + f.For
		}
	}
}
