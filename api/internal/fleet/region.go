package fleet

import (
	"context"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/sdk/driver"
)

// spot is a healthy driver of a live worker.
type spot struct {
	worker string
	host   string // the worker's region
	region string // the driver's: where its sandboxes are
	layers bool   // it can put workspaces together, as far as is known
}

// in reports whether a tenant with this residency may use it. None is no rule.
func (s spot) in(residency []string) bool {
	return len(residency) == 0 || slices.Contains(residency, s.host) && slices.Contains(residency, s.region)
}

// Place is the first region of an order in which a live worker has all of the
// drivers healthy, or else the first of them, or else the first of the order.
// An empty order is anywhere, and so is its place: "".
func (w *Workers) Place(ctx context.Context, order, residency, drivers []string) (string, error) {
	if len(order) == 0 {
		return "", nil
	}
	if len(order) == 1 {
		return order[0], nil
	}
	p, err := w.look(ctx, false)
	if err != nil {
		return "", err
	}
	for _, want := range [][]string{drivers, drivers[:1]} {
		for _, region := range order {
			if p.serves(region, residency, want) {
				return region, nil
			}
		}
	}
	return order[0], nil
}

// serves reports whether one worker has all drivers in a region.
func (p *picture) serves(region string, residency, drivers []string) bool {
	return slices.ContainsFunc(p.spots[drivers[0]], func(first spot) bool {
		return !slices.ContainsFunc(drivers, func(name string) bool {
			return !slices.ContainsFunc(p.spots[name], func(s spot) bool {
				return s.worker == first.worker && s.region == region && s.in(residency)
			})
		})
	})
}

// Where is a worker's region, and that of a driver of its; "" = not known.
func (w *Workers) Where(ctx context.Context, worker, driver string) (host, region string, err error) {
	p, err := w.look(ctx, false)
	if err != nil {
		return "", "", err
	}
	h := p.hosts[worker]
	return h.region, h.drivers[driver], nil
}

// Want is what a queued step wants of a worker.
type Want struct {
	Driver    string
	Pin       string   // the only worker that may take it; "" = any
	Region    string   // where it is placed; "" = anywhere
	Order     []string // where it may be; none = anywhere
	Residency []string // of its tenant; none = no rule
	Layers    bool     // it goes on in a workspace that has to be put together
	Needs     []driver.Capability
}

// Lacks says in words what a step waits for; "" when a worker that may take it
// has its driver healthy.
func (w *Workers) Lacks(ctx context.Context, want Want) (string, error) {
	p, err := w.look(ctx, false)
	if err != nil {
		return "", err
	}
	if want.Pin != "" {
		return p.lacksPinned(want), nil
	}
	there := p.spots[want.Driver]
	fits := func(region string) bool {
		return slices.ContainsFunc(there, func(s spot) bool { return (region == "" || s.region == region) && s.in(want.Residency) })
	}
	what := "a worker with the driver " + want.Driver
	if fits(want.Region) {
		if want.Layers && !slices.ContainsFunc(there, func(s spot) bool {
			return s.layers && (want.Region == "" || s.region == want.Region) && s.in(want.Residency)
		}) {
			return what + " that can put the run's workspace together: those that are there have an older nofxd", nil
		}
		return p.lacksCapability(want), nil
	}
	switch {
	case want.Region == "" && len(want.Residency) > 0:
		return what + " in " + strings.Join(want.Residency, ", ") + ", the tenant's residency: no live one has it healthy there", nil
	case want.Region == "":
		return what + ": no live one has it healthy", nil
	}
	what = "a worker in " + want.Region + " with the driver " + want.Driver
	for _, r := range want.Order {
		if r != want.Region && fits(r) {
			return what + ": no live one has it healthy; if that lasts, the step goes to " + r, nil
		}
	}
	if len(want.Order) > 1 {
		return what + ": no live one has it healthy, there or elsewhere in " + strings.Join(want.Order, ", "), nil
	}
	return what + ": no live one has it healthy", nil
}

// lacksCapability says what it takes that only some of those have who may take the
// step. What none has, the next claim finds out.
func (p *picture) lacksCapability(want Want) string {
	var missing driver.Capability
	able := false
	for i, s := range p.spots[want.Driver] {
		if !s.in(want.Residency) || want.Region != "" && s.region != want.Region {
			continue
		}
		if lacks := lacking(p.able[want.Driver][i], want.Needs); lacks != "" {
			missing = lacks
		} else {
			able = true
		}
	}
	if missing == "" || !able {
		return ""
	}
	return "a worker whose driver " + want.Driver + " has the capability " + string(missing)
}

// lacking is the first of the needs that a driver has not; "" when it has all.
func lacking(have driver.Capabilities, needs []driver.Capability) driver.Capability {
	for _, need := range needs {
		if !have.Has(need) {
			return need
		}
	}
	return ""
}

func (p *picture) lacksPinned(want Want) string {
	at := slices.IndexFunc(p.spots[want.Driver], func(s spot) bool { return s.worker == want.Pin })
	switch {
	case at < 0 && !p.workers[want.Pin]:
		return "the worker that has the run's workspace, which is away"
	case at < 0:
		return "the driver " + want.Driver + " on the worker that has the run's workspace"
	}
	switch s := p.spots[want.Driver][at]; {
	case !s.in(want.Residency):
		return "a worker in " + strings.Join(want.Residency, ", ") + ", the tenant's residency: the one that has the run's workspace is in " + s.host
	case want.Region != "" && s.region != want.Region:
		return "a worker in " + want.Region + ": the one that has the run's workspace has the driver " + want.Driver + " in " + s.region
	}
	if lacks := lacking(p.able[want.Driver][at], want.Needs); lacks != "" {
		return "a worker whose driver " + want.Driver + " has the capability " + string(lacks) +
			": that of the worker with the run's workspace lacks it, and the step goes on elsewhere when no other is at work there"
	}
	return ""
}
