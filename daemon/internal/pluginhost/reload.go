package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// plan says which plugins are to run, with which configuration, and tells of
// those that are not.
type plan struct {
	run  map[string]json.RawMessage
	idle []wire.DriverInfo
}

// plan compares the plugins of the folder with the configurations.
func (h *Host) plan(configs map[string]json.RawMessage) (plan, error) {
	found, err := pluginmanifest.Discover(h.cfg.Dir)
	if err != nil {
		return plan{}, err
	}
	p := plan{run: map[string]json.RawMessage{}}
	for _, name := range found {
		if config, ok := configs[name]; ok {
			p.run[name] = config
			continue
		}
		p.idle = append(p.idle, idleInfo(name, "not configured: there is no drivers."+name+" in the configuration"))
	}
	for name := range configs {
		if _, ok := p.run[name]; !ok {
			p.idle = append(p.idle, idleInfo(name, "it is configured, but there is no plugin "+prefix+name))
		}
	}
	return p, nil
}

// idleInfo tells of a driver that does not run, and why.
func idleInfo(name, why string) wire.DriverInfo {
	return wire.DriverInfo{Name: name, Message: why, Capabilities: []string{}}
}

// Reload takes new configurations while plugins and sandboxes run: changed ones
// are given to their plugins, new ones start theirs, plugins without one are
// stopped. It also looks for new files at once, and tries again what is
// quarantined. A configuration that is refused changes nothing for its driver,
// whose message says so; the error names driver and field, and the others are
// taken all the same. took, if it is not nil, hears which those are, from any
// goroutine: each new one's name before its plugin starts.
func (h *Host) Reload(ctx context.Context, configs map[string]json.RawMessage, took func(name string)) error {
	if took == nil {
		took = func(string) {}
	}
	h.reload.Lock()
	defer h.reload.Unlock()
	p, err := h.plan(configs)
	if err != nil {
		return err
	}
	var fresh, kept, stopped []*slot
	h.mu.Lock()
	if h.launch == nil {
		h.mu.Unlock()
		return step.Errorf(step.KindUnavailable, "plugin host: it does not run")
	}
	for name, s := range h.slots {
		if _, ok := configs[name]; !ok {
			stopped = append(stopped, s)
			delete(h.slots, name)
			continue
		}
		// A plugin whose file is gone goes on as long as its process does.
		p.run[name] = configs[name]
		p.idle = slices.DeleteFunc(p.idle, func(i wire.DriverInfo) bool { return i.Name == name })
		kept = append(kept, s)
	}
	for name, config := range p.run {
		if h.slots[name] == nil {
			fresh = append(fresh, newSlot(h.cfg, name, config, h.change))
		}
	}
	h.idle = p.idle
	h.mu.Unlock()
	for _, s := range stopped {
		s.log.Warn("the driver is not configured any more; stopping its plugin")
		s.cancel()
	}
	for _, s := range stopped {
		<-s.ended // one of the same name would use the same pid file
	}
	running := map[string]bool{}
	for _, s := range kept {
		running[s.name] = true
	}
	for name := range configs {
		if !running[name] {
			took(name)
		}
	}
	h.add(fresh)
	errs := make([]error, len(kept))
	var given sync.WaitGroup
	for i, s := range kept { // at once: one that hangs keeps no other waiting
		given.Go(func() {
			err := s.reconfigure(ctx, configs[s.name])
			s.setUnused(err)
			if err != nil {
				errs[i] = fmt.Errorf("drivers.%s: %w", s.name, err)
			} else {
				took(s.name)
			}
			s.poke()
		})
	}
	given.Wait()
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	h.change()
	h.cfg.Log.Info("plugins reloaded", "configured", slices.Sorted(maps.Keys(configs)), "started", len(fresh), "stopped", len(stopped), "refused", len(errs))
	return errors.Join(errs...)
}

// add starts slots, unless Run has ended meanwhile.
func (h *Host) add(slots []*slot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.launch == nil {
		return
	}
	for _, s := range slots {
		h.slots[s.name] = s
		s.log.Info("the driver is configured now; starting its plugin")
		h.launch(s, func() {})
	}
}
