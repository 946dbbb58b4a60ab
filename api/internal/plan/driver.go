package plan

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Driver is what a plan needs to know of a driver that workers offer.
type Driver struct {
	OnHost   bool                // its workspaces are folders of the worker
	ByTenant bool                // it works with each tenant's own credentials
	Caps     driver.Capabilities // of any worker that has it; none = not known
	Untold   bool                // one of them has not said yet what it can do
}

// Drivers tells which drivers workers offer, by name. The answer may be some
// seconds old, unless it is to be fresh.
type Drivers interface {
	Known(ctx context.Context, fresh bool) (map[string]Driver, error)
}

// builtIn are the drivers of NOFX: a step may name one before any worker has it.
var builtIn = map[string]Driver{
	"local": {OnHost: true}, "container": {OnHost: true}, "e2b": {}, "modal": {}, "vercel": {},
}

// aliases are names that older clients use.
var aliases = map[string]string{"worker-container": "container"}

// maxListed bounds the names in a refusal.
const maxListed = 50

// offers are the drivers that steps of one plan may name. What is not there is
// looked for once more, however many steps name it.
type offers struct {
	known Drivers
	list  map[string]Driver
	fresh bool
	err   error
}

func (o *offers) has(ctx context.Context, name string) bool {
	_, ours := builtIn[name]
	_, theirs := o.list[name]
	if ours || theirs || o.fresh {
		return ours || theirs
	}
	o.fresh = true
	list, err := o.known.Known(ctx, true)
	if err != nil {
		o.err = err
		return false
	}
	o.list = list
	_, theirs = o.list[name]
	return theirs
}

// Named is the driver that somebody means by a name, which may be an older one. ok
// is false when it is neither one of NOFX's nor one of those that workers offer;
// use tells which there are.
func Named(name string, offered map[string]Driver) (driver string, ok bool, use string) {
	if to, older := aliases[name]; older {
		return to, true, ""
	}
	_, ours := builtIn[name]
	_, theirs := offered[name]
	o := offers{list: offered}
	return name, ours || theirs, o.names()
}

func (o *offers) onHost(name string) bool { return builtIn[name].OnHost || o.list[name].OnHost }

func (o *offers) names() string {
	all := maps.Clone(builtIn)
	maps.Copy(all, o.list)
	names := slices.Sorted(maps.Keys(all))
	if more := len(names) - maxListed; more > 0 {
		names = append(names[:maxListed], "…")
	}
	return strings.Join(names, ", ")
}

func (c compiler) driver(ctx context.Context, at, asked, def string) string {
	if asked == "" {
		return def
	}
	return c.known(ctx, at+".driver", asked)
}

// isolation checks the level that the step demands of its sandbox. One that no
// worker with that driver has is refused at once; while no worker has the driver
// at all, the step waits for one.
func (c compiler) isolation(ctx context.Context, at string, in wire.PlanStep, out *Step) {
	switch in.Isolation {
	case "":
		return
	case driver.IsolationNamespace, driver.IsolationGVisor:
	default:
		c.add(at+".isolation", in.Isolation, "must be %s or %s", driver.IsolationNamespace, driver.IsolationGVisor)
		return
	}
	if need := driver.Capability("isolation." + in.Isolation); !c.offers.able(ctx, out.Driver, need) {
		c.add(at+".isolation", in.Isolation, "no worker's driver %s has the capability %s", out.Driver, need)
	} else if need = driver.CapNetGVisor; in.Isolation == driver.IsolationGVisor && in.Network != "" && in.Network != step.NetworkNone && !c.offers.able(ctx, out.Driver, need) {
		c.add(at+".network", in.Network, "no worker's driver %s has the capability %s, which a network with isolation gvisor needs", out.Driver, need)
	}
	out.Command.Isolation = in.Isolation
}

// able reports whether one of the drivers of a name can do that, or may turn out to:
// none has been seen, or one has not said yet.
func (o *offers) able(ctx context.Context, name string, need driver.Capability) bool {
	d, offered := o.list[name]
	if offered && (d.Untold || d.Caps.Has(need)) {
		return true
	}
	if o.fresh {
		return !offered
	}
	o.fresh = true
	list, err := o.known.Known(ctx, true)
	if err != nil {
		o.err = err
		return true
	}
	o.list = list
	return o.able(ctx, name, need)
}
