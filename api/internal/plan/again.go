package plan

import (
	"context"
	"encoding/json"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Change is what is to be different when a step is tried again.
type Change struct {
	Inputs json.RawMessage // nil = as they were
	Driver string          // "" = as it was
}

// Again renders a step anew that was submitted before: spec is what it was, old
// its inputs, in clear: where new ones have a sealed value's place holder, the
// old value stays. The checks are those of a submission. Its place among the steps
// of its run stays what it is.
func Again(ctx context.Context, spec wire.PlanStep, old json.RawMessage, to Change, have Catalog) (Step, error) {
	if spec.Name == "" {
		return Step{}, step.Errorf(step.KindConflict, "the step was submitted to an earlier version, which did not keep what it takes to change it: submit it anew")
	}
	list, err := have.Drivers.Known(ctx, false)
	if err != nil {
		return Step{}, err
	}
	f := &faults{}
	offered := &offers{known: have.Drivers, list: list}
	c := compiler{faults: f, handlers: have.Handlers, offers: offered, presets: have.Presets, profiles: have.Profiles}
	if to.Driver != "" {
		spec.Driver, spec.Drivers = to.Driver, nil
		if spec.OnOpen == wire.OnOpenFallback {
			spec.OnOpen = wire.OnOpenWait
		}
	}
	spec.Inputs = to.Inputs
	if to.Inputs == nil { // what keys of older clients asked for is in spec already
		if spec.Inputs, err = canonical(old); err != nil {
			return Step{}, step.Errorf(step.KindInternal, "inputs of step %s: %w", spec.Name, err)
		}
		spec.Inputs = without(spec.Inputs)
	} else {
		c.before = old
	}
	out, _ := c.one(ctx, "body", spec)
	switch {
	case offered.err != nil:
		return Step{}, offered.err
	case len(f.list) > 0:
		return Step{}, f.err()
	case out.Denied != "":
		return Step{}, step.Errorf(step.KindForbidden, "%s", out.Denied)
	}
	if to.Inputs == nil {
		out.Inputs, out.Redacted = old, nil
		if h, known := have.Handlers.Find(out.Tool); known {
			out.Redacted = redacted(h, old)
		}
	}
	return out, nil
}
