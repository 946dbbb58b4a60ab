package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// named are regions that a step, or the plan for its steps, names.
type named struct {
	order []string // none = anywhere
	at    string   // the field
}

// regions checks one region or an order of them; not both.
func (c compiler) regions(at, one string, order []string) named {
	switch {
	case one != "" && len(order) > 0:
		c.add(at+".region", one, "and regions say the same in two ways: use one of them")
	case one != "":
		if !step.ValidRegion(one) {
			c.add(at+".region", one, "must be the name of a region: 1 to 63 of a-z, 0-9 and -, and first no -")
		}
		return named{[]string{one}, at + ".region"}
	case len(order) > step.MaxRegions:
		c.add(at+".regions", len(order), "at most %d", step.MaxRegions)
		return named{}
	}
	for i, name := range order {
		where := fmt.Sprintf("%s.regions[%d]", at, i)
		switch {
		case !step.ValidRegion(name):
			c.add(where, name, "must be the name of a region: 1 to 63 of a-z, 0-9 and -, and first no -")
		case slices.Contains(order[:i], name):
			c.add(where, name, "is there twice")
		}
	}
	return named{order, at + ".regions"}
}

// place says where a step may be: as it names itself, or as the plan does.
func (c compiler) place(at string, in wire.PlanStep, out *Step) {
	out.named = c.regions(at, in.Region, in.Regions)
	if in.Region == "" && len(in.Regions) == 0 {
		out.named = c.everywhere
		out.Spec.Regions = c.everywhere.order
	}
	out.Regions = out.named.order
}

// shareRegions gives the steps that share their run's workspace, which is on one
// worker, the one order of regions that they can have: those that all of them
// name, as the first of them orders them.
func shareRegions(f *faults, steps []Step) {
	first := -1
	var order []string
	for i, s := range steps {
		if !s.Shares() || len(s.Regions) == 0 {
			continue
		}
		if first < 0 {
			first, order = i, s.Regions
			continue
		}
		both := slices.DeleteFunc(slices.Clone(order), func(r string) bool { return !slices.Contains(s.Regions, r) })
		if len(both) == 0 {
			f.add(s.named.at, strings.Join(s.Regions, ", "),
				"the step shares the run's workspace with %q, for which %s is left: name a region for both, or give one of them a workspace of its own (workspace: step)",
				steps[first].Name, strings.Join(order, ", "))
			return
		}
		order = both
	}
	for i := range steps {
		if first >= 0 && steps[i].Shares() {
			steps[i].Regions = order
		}
	}
}

// Reside refuses steps that name a region outside their tenant's residency,
// with every place.
func Reside(steps []Step, residency []string) error {
	if len(residency) == 0 {
		return nil
	}
	f := &faults{}
	told := map[string]bool{} // what a plan names for all its steps is one fault
	for _, s := range steps {
		for i, r := range s.named.order {
			at := s.named.at
			if strings.HasSuffix(at, ".regions") {
				at = fmt.Sprintf("%s[%d]", at, i)
			}
			if !slices.Contains(residency, r) && !told[at] {
				told[at] = true
				f.add(at, r, "is outside the tenant's residency: of %s, only %s may be named", strings.Join(s.named.order, ", "), strings.Join(residency, ", "))
			}
		}
	}
	if len(f.list) == 0 {
		return nil
	}
	return f.err()
}

// Allowed are those regions of a step's order that its tenant's residency lets
// it be in, in order. None with ok is anywhere.
func Allowed(order, residency []string) (allowed []string, ok bool) {
	switch {
	case len(order) == 0:
		return residency, true
	case len(residency) == 0:
		return order, true
	}
	allowed = slices.DeleteFunc(slices.Clone(order), func(r string) bool { return !slices.Contains(residency, r) })
	return allowed, len(allowed) > 0
}
