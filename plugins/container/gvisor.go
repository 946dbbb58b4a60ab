package container

import (
	"context"
	"errors"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// isTried reports whether it is known if gVisor works here.
func (s *setup) isTried() bool { return s.tried.Load() }

// tryGVisor finds out, once, whether the engine's runtime for gVisor makes
// sandboxes here: a level that a step can demand is one that was seen to work. An
// engine that is not up yet is tried when it is.
func (d *Driver) tryGVisor(ctx context.Context, s *setup) {
	s.trying.Lock()
	defer s.trying.Unlock()
	if s.isTried() {
		return
	}
	if s.config.GVisorRuntime == "" {
		d.ForgetGVisor()
		s.tried.Store(true)
		return
	}
	_, away := s.ready(ctx)
	why := away
	if why == nil && s.config.Image == "" {
		why = errors.New("there is no image in the configuration to try the runtime with")
	} else if why == nil {
		why = d.Probe(ctx, driver.IsolationGVisor, step.NetworkNone, d.start)
	}
	if now, err := d.configured(); err == nil && now == s {
		d.UseGVisor(s.config.GVisorRuntime == s.config.Runtime, why)
	}
	s.tried.Store(away == nil)
}
