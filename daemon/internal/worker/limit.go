package worker

import (
	"slices"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// caps are those of a lease next to the most that this host gives any step.
func (w *Worker) caps(l *wire.Lease) []limited {
	r, most, usual := &l.Resources, w.cfg.Most, w.cfg.Default
	return []limited{
		limitOf("cpu", &r.CPU, most.CPU, 0), limitOf("memory_mb", &r.MemoryMB, most.MemoryMB, 0), limitOf("pids", &r.Pids, most.Pids, 0),
		limitOf("disk_mb", &r.DiskMB, most.DiskMB, usual.DiskMB), limitOf("io_mb_s", &r.IOMBs, most.IOMBs, usual.IOMBs), limitOf("output_kb", &r.OutputKB, most.OutputKB, 0),
		limitOf(wire.CapTimeout, &l.TimeoutMS, w.cfg.MostTime.Milliseconds(), 0),
	}
}

// limited is one cap: what nobody asked for can be fitted to the host, what is too
// much is told.
type limited struct {
	name string
	fit  func(asked bool)
	over func() error
}

// limitOf is one of a host that gives at most most, and usual to a step that does
// not ask, when that is less. A default without a most is none of these: it holds
// where it can be held, and keeps no step away.
func limitOf[N int64 | float64](name string, asked *N, most, usual N) limited {
	return limited{
		name: name,
		fit: func(is bool) {
			switch {
			case *asked <= 0:
				if *asked = max(most, 0); usual > 0 {
					*asked = min(*asked, usual)
				}
			case !is && most > 0:
				*asked = min(*asked, most)
			}
		},
		over: func() error {
			if most > 0 && *asked > most {
				return step.Errorf(step.KindForbidden, "%s: the step asks for %v, more than the %v that this host gives", name, *asked, most)
			}
			return nil
		},
	}
}

// bound gives a step the most of what it leaves open, or has by default and would
// be more.
func (w *Worker) bound(l wire.Lease) wire.Lease {
	for _, c := range w.caps(&l) {
		c.fit(!slices.Contains(l.Defaults, c.name))
	}
	return l
}

// tooMuch refuses a step that asks for more than this host gives, with both
// numbers.
func (w *Worker) tooMuch(l wire.Lease) error {
	if most := w.cfg.MostNet; most != "" && l.Network.Rank() > most.Rank() {
		return step.Errorf(step.KindForbidden, "network: the step asks for %s, more than the %s that this host gives", l.Network, most)
	}
	for _, c := range w.caps(&l) {
		if err := c.over(); err != nil {
			return err
		}
	}
	return nil
}
