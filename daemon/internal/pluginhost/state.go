package pluginhost

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/wire"
)

// describe asks a driver what it is. Its version goes into the record of each
// attempt, whatever the plugin said.
func describe(ctx context.Context, c *driverrpc.Client) (driver.Description, error) {
	d, err := c.Describe(ctx)
	d.Version = tame(d.Version, maxVersion)
	return d, err
}

// describe makes state that of p. s.mu is held.
func (s *slot) describe(p *process) {
	caps := make([]string, len(p.desc.Capabilities))
	for i, c := range p.desc.Capabilities {
		caps[i] = string(c)
	}
	message := s.health.Message
	if message == "" {
		message = strings.Join(p.desc.Warnings, "; ")
	}
	parts := slices.DeleteFunc([]string{s.note, s.unused, message}, func(part string) bool { return part == "" })
	s.state = wire.DriverInfo{Name: s.name, Version: p.desc.Version, Protocol: p.driver.Version(), Healthy: s.health.Healthy,
		Message: strings.Join(parts, "; "), Capabilities: caps}
}

// warn logs what the plugin warns of, once: not again when it is restarted.
func (s *slot) warn(warnings []string) {
	text := tame(strings.Join(warnings, "; "), maxMessage)
	s.mu.Lock()
	news := text != "" && text != s.warned
	s.warned = text
	s.mu.Unlock()
	if news {
		s.log.Warn("the driver warns", "warning", text)
	}
}

// setHealth notes what p says of itself. One that has become healthy, or is it as the
// first that it says, is asked anew what it can do: what it works with may have come
// only now.
func (s *slot) setHealth(ctx context.Context, p *process, h driver.Health) {
	s.mu.Lock()
	recovered := s.current == p && h.Healthy && (!s.health.Healthy || s.heard != p)
	s.heard = p
	s.mu.Unlock()
	if recovered {
		s.redescribe(ctx, p)
	}
	s.mu.Lock()
	news := false
	if s.current == p {
		before := s.state
		s.health = h
		s.describe(p)
		news = before.Healthy != s.state.Healthy || before.Message != s.state.Message || !slices.Equal(before.Capabilities, s.state.Capabilities)
	}
	s.mu.Unlock()
	if news {
		s.changed()
	}
}

// redescribe keeps what it knew when p does not answer.
func (s *slot) redescribe(ctx context.Context, p *process) {
	ctx, cancel := context.WithTimeout(ctx, min(s.cfg.Timeouts.Call, s.cfg.Timeouts.Health/2))
	defer cancel()
	s.mu.Lock()
	config := p.config
	s.mu.Unlock()
	desc, err := describe(ctx, p.driver)
	if err != nil || desc.Name != s.name {
		s.log.Warn("the plugin does not say what it can do now", "err", err)
		return
	}
	s.mu.Lock()
	same := bytes.Equal(p.config, config) // else what it said may be of before, and it was asked since
	if same {
		p.desc = desc
	}
	s.mu.Unlock()
	if same {
		s.warn(desc.Warnings)
	}
}

// setNote adds to what is told of p.
func (s *slot) setNote(p *process, note string) {
	s.mu.Lock()
	if s.current == p {
		s.note = note
		s.describe(p)
	}
	s.mu.Unlock()
	s.changed()
}

// setUnused tells why a new configuration is not used; nil is that it is.
func (s *slot) setUnused(why error) {
	s.mu.Lock()
	s.unused = ""
	if why != nil {
		s.unused = fmt.Sprintf("its new configuration is not used: %v", why)
	}
	if s.current != nil {
		s.describe(s.current)
	}
	s.mu.Unlock()
	s.changed()
}

// giveUp fails calls at once; until is when another try may help, if ever, and
// refused the reason why the plugin is not run.
func (s *slot) giveUp(why, refused string, until time.Time) {
	s.mu.Lock()
	s.failed, s.until = why, until
	s.state.Healthy, s.state.Protocol, s.state.Message, s.state.Refused = false, 0, why, refused
	close(s.up) // whoever waits for it need not
	s.mu.Unlock()
	s.changed()
}

// down lets calls wait for the next process.
func (s *slot) down(why string) { s.downIf(nil, why) }

// downIf is down unless another process than p has taken its place; nil is any.
func (s *slot) downIf(p *process, why string) {
	s.mu.Lock()
	if p != nil && s.current != p {
		s.mu.Unlock()
		return
	}
	if s.current != nil {
		s.current, s.up = nil, make(chan struct{})
	}
	s.state.Healthy, s.state.Protocol, s.state.Message = false, 0, why
	s.mu.Unlock()
	s.changed()
}

// changed tells that state is new.
func (s *slot) changed() {
	s.mu.Lock()
	healthy, quarantined := s.state.Healthy, !s.until.IsZero()
	s.mu.Unlock()
	s.cfg.Observer.PluginState(s.name, healthy, quarantined)
	s.change()
}

// Bounds of what is told of a driver, in bytes. A plugin that says more must
// not spoil the message that tells of all drivers.
const (
	maxVersion      = 100
	maxMessage      = 1000
	maxCapability   = 64
	maxCapabilities = 64
)

// info tells of the driver in words that are short and harmless, whatever the
// plugin said.
func (s *slot) info() wire.DriverInfo {
	s.mu.Lock()
	i := s.state
	s.mu.Unlock()
	i.Message = tame(i.Message, maxMessage)
	caps := make([]string, 0, min(len(i.Capabilities), maxCapabilities))
	for _, c := range i.Capabilities {
		if len(caps) < maxCapabilities && len(c) <= maxCapability && tame(c, maxCapability) == c {
			caps = append(caps, c)
		}
	}
	i.Capabilities = caps
	return i
}

// tame makes text valid, printable and at most limit bytes long.
func tame(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, text)
}
