package container

import (
	"context"
	"errors"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// tryGVisor finds out, once, whether the engine's runtime for gVisor makes
// sandboxes here: a level that a step can demand is one that was seen to work. An
// engine that is not up yet is tried when it is.
func (d *Driver) tryGVisor(ctx context.Context, s *setup) {
	s.trying.Lock()
	defer s.trying.Unlock()
	if s.tried {
		return
	}
	if s.config.GVisorRuntime == "" {
		d.ForgetGVisor()
		s.tried = true
		return
	}
	_, why := s.ready(ctx)
	s.tried = why == nil
	if why == nil && s.config.Image == "" {
		why = errors.New("there is no image in the configuration to try the runtime with")
	} else if why == nil {
		why = d.Probe(ctx, driver.IsolationGVisor, step.NetworkNone, d.start)
	}
	if now, err := d.configured(); err == nil && now == s {
		d.UseGVisor(s.config.GVisorRuntime == s.config.Runtime, why)
	}
}
