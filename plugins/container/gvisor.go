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
// engine that is not up yet, or went away meanwhile, is tried when it is there.
func (d *Driver) tryGVisor(ctx context.Context, s *setup) {
	if s.isTried() || ctx.Err() != nil {
		return
	}
	_, away := s.ready(ctx)
	why := away
	if why == nil && s.config.Image == "" {
		why = errors.New("there is no image in the configuration to try the runtime with")
	} else if why == nil {
		if why = d.Probe(ctx, driver.IsolationGVisor, step.NetworkNone, d.start); why != nil {
			away = s.engine.ping(ctx)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.setup != s || ctx.Err() != nil {
		return
	}
	d.UseGVisor(s.config.GVisorRuntime == s.config.Runtime, why)
	s.tried.Store(away == nil)
}

// notYet says why it is not known whether gVisor works here, as long as it is not.
func (d *Driver) notYet(s *setup, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.setup == s && !s.isTried() {
		d.UseGVisor(s.config.GVisorRuntime == s.config.Runtime, why)
	}
}
