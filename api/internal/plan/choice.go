package plan

import (
	"context"
	"fmt"
	"slices"

	"github.com/nofx-run/nofx/api/internal/handler"
	"github.com/nofx-run/nofx/internal/admission"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Choice is one driver that a step may go to.
type Choice struct {
	Name     string
	ByTenant bool // its breaker is the tenant's own
}

// drivers finds the drivers of a step: those that it lists, the one that it
// names, or the handler's.
func (c compiler) drivers(ctx context.Context, at string, in wire.PlanStep, h *handler.Handler, out *Step) {
	info := h.Info()
	asked := in.Drivers
	if len(asked) > handler.MaxDrivers {
		c.add(at+".drivers", len(asked), "at most %d", handler.MaxDrivers)
		asked = asked[:handler.MaxDrivers]
	}
	var names []string
	for i, name := range asked {
		where := fmt.Sprintf("%s.drivers[%d]", at, i)
		name = c.known(ctx, where, name)
		if slices.Contains(names, name) {
			c.add(where, name, "is there twice")
		}
		names = append(names, name)
	}
	switch {
	case len(names) > 0:
		if in.Driver != "" && c.driver(ctx, at, in.Driver, "") != names[0] {
			c.add(at+".driver", in.Driver, "is not the first of drivers: leave it out, or put it first there")
		}
	case in.Driver != "" || len(info.Drivers) == 0:
		names = []string{c.driver(ctx, at, in.Driver, info.DefaultDriver)}
	default:
		names = info.Drivers
	}
	out.Driver, out.OnHost = names[0], c.offers.onHost(names[0])
	for _, name := range names {
		out.Drivers = append(out.Drivers, Choice{Name: name, ByTenant: h.Rules().PerTenant || c.offers.list[name].ByTenant})
	}
	switch in.OnOpen {
	case "":
		out.OnOpen = wire.OnOpenWait
		if len(names) > 1 {
			out.OnOpen = wire.OnOpenFallback
		}
	case wire.OnOpenWait, wire.OnOpenFail:
		out.OnOpen = in.OnOpen
	case wire.OnOpenFallback:
		out.OnOpen = in.OnOpen
		if len(names) == 1 {
			c.add(at+".on_open", string(in.OnOpen), "needs a driver to go to: list them in order in drivers")
		}
	default:
		c.add(at+".on_open", string(in.OnOpen), "must be wait, fail or fallback")
	}
}

// known is the driver with that name, which must be one.
func (c compiler) known(ctx context.Context, where, asked string) string {
	if to, ok := aliases[asked]; ok {
		return to
	}
	if asked == "" || !c.offers.has(ctx, asked) {
		c.add(where, asked, "is neither a driver of NOFX nor one that a worker offers: use one of %s", c.offers.names())
	}
	return asked
}

// choices checks that a step that may change its driver could do its work on
// each of them: what it needs is known now, and a change later is no surprise.
func (c compiler) choices(at string, s Step) {
	if len(s.Drivers) < 2 {
		return
	}
	lease := wire.Lease{Resources: s.Resources, TimeoutMS: s.TimeoutMS, Network: s.Network, Command: s.Command, Artifacts: s.Artifacts}
	for i, d := range s.Drivers {
		where := fmt.Sprintf("%s.drivers[%d]", at, i)
		if s.Workspace == step.WorkspaceRun && c.offers.onHost(d.Name) != s.OnHost {
			c.add(where, d.Name, "keeps its workspace elsewhere than %s: a step that shares its run's workspace stays with drivers of one kind, or has a workspace of its own (workspace: step)", s.Driver)
		}
		// A driver that no worker has told of yet is judged when it is there.
		if caps := c.offers.list[d.Name].Caps; len(caps) > 0 {
			if missing := admission.Missing(lease, s.Shares(), caps); missing != "" {
				c.add(where, d.Name, "lacks the capability %s, which the step needs", missing)
			}
		}
	}
}
