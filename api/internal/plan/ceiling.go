package plan

import (
	"fmt"

	"github.com/nofx-run/nofx/sdk/step"
)

// Ceiling is what a tenant's policy lets its steps have at most, and the
// isolation that it demands. Zero is no ceiling.
type Ceiling struct {
	Network   step.Network
	Isolation string // the level that a step must have; "" = what it asks for
	Resources step.Resources
	TimeoutMS int64
	Clip      bool // a step that asks for more gets that, in place of a refusal
}

// Apply bounds what steps leave open or have by their tool's default, and refuses
// those that ask for more, or clips them: forbidden, with every place and both
// numbers.
func (ce Ceiling) Apply(steps []Step) error {
	f := &faults{}
	for i := range steps {
		s := &steps[i]
		at := fmt.Sprintf("body.plan.steps[%d]", i)
		if s.Network.Rank() > ce.Network.Rank() {
			f.add(at+".network", string(s.Network), "is more than the tenant's policy allows, which is %s", ce.Network)
		}
		ce.isolate(f, at, s)
		r, own, most := &s.Resources, s.asked, ce.Resources
		bound(ce, f, at+".resources.cpu", &r.CPU, own.CPU, most.CPU)
		bound(ce, f, at+".resources.memory_mb", &r.MemoryMB, own.MemoryMB, most.MemoryMB)
		bound(ce, f, at+".resources.pids", &r.Pids, own.Pids, most.Pids)
		bound(ce, f, at+".resources.disk_mb", &r.DiskMB, own.DiskMB, most.DiskMB)
		bound(ce, f, at+".resources.io_mb_s", &r.IOMBs, own.IOMBs, most.IOMBs)
		bound(ce, f, at+".resources.output_kb", &r.OutputKB, own.OutputKB, most.OutputKB)
		bound(ce, f, at+".timeout", &s.TimeoutMS, own.timeoutMS, ce.TimeoutMS)
	}
	if len(f.list) == 0 {
		return nil
	}
	first := f.list[0]
	return &step.Error{Kind: step.KindForbidden, Message: first.Location + ": " + first.Message, Fields: f.list}
}

// isolate gives a step the level that its tenant's policy demands, and refuses
// one that asks for less. Whether a worker has the level, and with it the network
// that the step asks for, is looked at when the step is claimed.
func (ce Ceiling) isolate(f *faults, at string, s *Step) {
	switch {
	case ce.Isolation == "":
		return
	case s.Command.Isolation == "":
		s.Command.Isolation = ce.Isolation
	case s.Command.Isolation != ce.Isolation:
		f.add(at+".isolation", s.Command.Isolation, "is less than the tenant's policy demands, which is %s", ce.Isolation)
	}
}

// bound keeps one cap below its ceiling.
func bound[N int64 | float64](ce Ceiling, f *faults, at string, has *N, asked, most N) {
	switch {
	case most <= 0 || *has > 0 && *has <= most:
	case asked <= 0 || ce.Clip:
		*has = most
	default:
		f.add(at, asked, "asks for %v, more than the %v that the tenant's policy allows", asked, most)
	}
}
