package container

import (
	"context"
	"errors"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// tryGVisor finds out whether the engine's runtime for gVisor makes sandboxes
// here: a level that a step can demand is one that was seen to work.
func (d *Driver) tryGVisor(ctx context.Context, s *setup) {
	if s.config.GVisorRuntime == "" {
		d.ForgetGVisor()
		return
	}
	why := errors.New("there is no image in the configuration to try the runtime with")
	if s.config.Image != "" {
		why = d.Probe(ctx, driver.IsolationGVisor, step.NetworkNone, d.start)
	}
	d.UseGVisor(s.config.GVisorRuntime == s.config.Runtime, why)
}
