package pluginhost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/nofx-run/nofx/sdk/driver"
)

// maxSchema bounds a driver's configuration schema, in bytes.
const maxSchema = 256 << 10

// configure gives the driver a configuration that its schema allows, and gives
// what the driver then says of itself: warnings and capabilities may depend on
// the configuration.
func (p *process) configure(ctx context.Context, config json.RawMessage) (d driver.Description, err error) {
	if len(config) == 0 {
		config = json.RawMessage(`{}`)
	}
	if err := checkConfig(p.desc.ConfigSchema, config); err != nil {
		return d, err
	}
	if err := p.driver.Configure(ctx, config); err != nil {
		return d, fmt.Errorf("configure: %w", err)
	}
	if d, err = p.driver.Describe(ctx); err != nil {
		return d, fmt.Errorf("describe, configured: %w", err)
	}
	return d, nil
}

// checkConfig checks a configuration against the driver's own schema.
func checkConfig(schema, config json.RawMessage) error {
	if len(schema) > maxSchema {
		return refuse(reasonSchema, "the configuration's schema has %d bytes", len(schema))
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(schema, &s); err != nil {
		return refuse(reasonSchema, "the configuration's schema: %v", err)
	}
	resolved, err := s.Resolve(nil)
	if err != nil {
		return refuse(reasonSchema, "the configuration's schema: %v", err)
	}
	var value any
	if err := json.Unmarshal(config, &value); err != nil {
		return refuse(reasonConfig, "the configuration: %v", err)
	}
	if err := resolved.Validate(value); err != nil {
		return refuse(reasonConfig, "the configuration: %v", err)
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
			return nil
		}
	}
}
