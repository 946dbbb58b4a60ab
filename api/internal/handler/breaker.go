package handler

import (
	"fmt"
	"slices"
	"time"

	"github.com/nofx-run/nofx/api/internal/breaker"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// breakerManifest is the section breaker. What is not there is as
// breaker.Defaults says; a rule that is 0 is none.
type breakerManifest struct {
	Off           bool         `yaml:"off"`
	PerTenant     bool         `yaml:"per_tenant"`
	WindowMS      *int64       `yaml:"window_ms"`
	MinVolume     *int         `yaml:"min_volume"`
	Percent       *int         `yaml:"failure_percent"`
	Consecutive   *int         `yaml:"consecutive"`
	CooldownMS    *int64       `yaml:"cooldown_ms"`
	Growth        *float64     `yaml:"cooldown_growth"`
	MaxCooldownMS *int64       `yaml:"cooldown_max_ms"`
	ProbeMS       *int64       `yaml:"probe_ms"`
	Counts        []step.Cause `yaml:"counts"`
}

// maxMS keeps milliseconds from wrapping around as a time.Duration, before the
// rules' own bounds see them.
const maxMS = int64(365 * 24 * time.Hour / time.Millisecond)

func (m breakerManifest) rules() (breaker.Rules, error) {
	r := breaker.Defaults()
	r.Off, r.PerTenant, r.Counts = m.Off, m.PerTenant, m.Counts
	for _, d := range []struct {
		ms *int64
		to *time.Duration
	}{{m.WindowMS, &r.Window}, {m.CooldownMS, &r.Cooldown}, {m.MaxCooldownMS, &r.MaxCooldown}, {m.ProbeMS, &r.ProbeLease}} {
		if d.ms != nil {
			*d.to = time.Duration(max(min(*d.ms, maxMS), 0)) * time.Millisecond
		}
	}
	if m.CooldownMS != nil && m.MaxCooldownMS == nil {
		r.MaxCooldown = max(r.MaxCooldown, r.Cooldown)
	}
	for _, n := range []struct{ from, to *int }{{m.MinVolume, &r.Volume}, {m.Percent, &r.Percent}, {m.Consecutive, &r.Consecutive}} {
		if n.from != nil {
			*n.to = *n.from
		}
	}
	if m.Growth != nil {
		r.Growth = *m.Growth
	}
	if err := r.Check(); err != nil {
		return r, fmt.Errorf("breaker: %w", err)
	}
	return r, nil
}

// MaxDrivers is how many drivers a step or a handler may list.
const MaxDrivers = 8

func checkDrivers(first string, list []string) error {
	switch {
	case len(list) == 0:
		return nil
	case len(list) > MaxDrivers:
		return fmt.Errorf("drivers: at most %d", MaxDrivers)
	case list[0] != first:
		return fmt.Errorf("drivers: the first must be the driver %q", first)
	}
	for i, name := range list {
		if name == "" || slices.Contains(list[:i], name) {
			return fmt.Errorf("drivers: %q is empty or there twice", name)
		}
	}
	return nil
}

// Name is the handler's: its tool, or its prefix with the "*".
func (h *Handler) Name() string { return h.m.Tool }

// Rules are those of the handler's breakers.
func (h *Handler) Rules() breaker.Rules { return h.rules }

// Rules are those of the handler with that name; the defaults when it is gone.
func (s *Set) Rules(name string) breaker.Rules {
	if h := s.named(name); h != nil {
		return h.rules
	}
	return breaker.Defaults()
}

// Drivers are those that a handler names, in order.
func (s *Set) Drivers(name string) (names []string, known bool) {
	h := s.named(name)
	if h == nil {
		return nil, false
	}
	if len(h.m.Drivers) > 0 {
		return h.m.Drivers, true
	}
	return []string{h.m.Driver}, true
}

func (s *Set) named(name string) *Handler {
	if h, ok := s.exact[name]; ok {
		return h
	}
	for _, h := range s.prefixes {
		if h.m.Tool == name {
			return h
		}
	}
	return nil
}

func shownRules(r breaker.Rules) wire.BreakerRules {
	return wire.BreakerRules{
		Off: r.Off, PerTenant: r.PerTenant, WindowMS: r.Window.Milliseconds(), MinVolume: r.Volume, Percent: r.Percent, Consecutive: r.Consecutive,
		CooldownMS: r.Cooldown.Milliseconds(), Growth: r.Growth, MaxCooldownMS: r.MaxCooldown.Milliseconds(), ProbeMS: r.ProbeLease.Milliseconds(), Counts: r.Counts,
	}
}
