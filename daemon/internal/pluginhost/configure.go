package pluginhost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/configschema"
)

// configure gives the driver a configuration that its schema allows, and gives
// what the driver then says of itself: warnings and capabilities may depend on
// the configuration.
func (p *process) configure(ctx context.Context, config json.RawMessage) (d driver.Description, err error) {
	if len(config) == 0 {
		config = json.RawMessage(`{}`)
	}
	if err := checkConfig(p.schema, config); err != nil {
		return d, err
	}
	if err := p.driver.Configure(ctx, config); err != nil {
		return d, fmt.Errorf("configure: %w", err)
	}
	if d, err = describe(ctx, p.driver); err != nil {
		return d, fmt.Errorf("describe, configured: %w", err)
	}
	return d, nil
}

// checkConfig checks a configuration against the driver's own schema.
func checkConfig(schema, config json.RawMessage) error {
	s, err := configschema.Parse(schema)
	if err != nil {
		return refuse(reasonSchema, "the configuration's schema: %w", err)
	}
	if err := s.Check(config); err != nil {
		return refuse(reasonConfig, "the configuration: %w", err)
	}
	return nil
}

// reconfigure gives the running process a new configuration. One that is
// refused changes nothing. While no process runs, the next is started with it.
func (s *slot) reconfigure(ctx context.Context, config json.RawMessage) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeouts.Start)
	defer cancel()
	for {
		s.mu.Lock()
		p, old := s.current, s.config
		if bytes.Equal(old, config) {
			s.mu.Unlock()
			return nil
		}
		if p == nil || p.dead() {
			s.config = config
			s.mu.Unlock()
			s.poke()
			return nil
		}
		p.calls.Add(1)
		s.mu.Unlock()
		desc, err := p.configure(ctx, config)
		if _, refused := refusedFor(err); err != nil && !refused {
			// The driver may have gone half the way; or it hangs, and will again.
			again, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Timeouts.Start)
			_, back := p.configure(again, old)
			cancel()
			if back != nil {
				s.log.Error("the plugin does not take its earlier configuration again; ending it", "err", back)
				p.child.End()
			}
		}
		p.calls.Done()
		if err != nil {
			return err
		}
		s.mu.Lock()
		mine := s.current == p
		if mine {
			s.config, p.config, p.desc = config, config, desc
			s.describe(p)
		}
		s.mu.Unlock()
		if mine {
			s.changed()
			s.log.Info("plugin configured anew")
			s.warn(desc.Warnings)
			return nil
		}
	}
}
