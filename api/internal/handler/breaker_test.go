package handler

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api/internal/breaker"
	"github.com/nofx-run/nofx/api/internal/profile"
	"github.com/nofx-run/nofx/configs"
	"github.com/nofx-run/nofx/sdk/step"
)

func loadWith(more string) (*Set, error) {
	text := "tool: x:*\ndescription: x\ndriver: local\nresources: {cpu: 1, memory_mb: 128, pids: 32, output_kb: 4096}\n" +
		"timeout_ms: 30000\ninputs: {type: object}\ncommand: {argv: [\"true\"]}\nshown: x\noutputs: shell\n" + more + "\n"
	return Load(fstest.MapFS{"x.yaml": {Data: []byte(text)}}, profile.Set{})
}

// The section breaker changes what it names, 0 takes a rule away, and what
// makes no sense is refused, with its name.
func TestBreakerSection(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]func(*breaker.Rules){
		"":                                       func(*breaker.Rules) {},
		"breaker: {off: true, per_tenant: true}": func(r *breaker.Rules) { r.Off, r.PerTenant = true, true },
		"breaker: {failure_percent: 0, consecutive: 3, counts: [exit, timeout]}": func(r *breaker.Rules) {
			r.Percent, r.Consecutive, r.Counts = 0, 3, []step.Cause{step.CauseExit, step.CauseTimeout}
		},
		"breaker: {window_ms: 5000, min_volume: 2, cooldown_ms: 1000, cooldown_growth: 1.5, cooldown_max_ms: 4000, probe_ms: 2000}": func(r *breaker.Rules) {
			r.Window, r.Volume, r.Cooldown, r.Growth, r.MaxCooldown, r.ProbeLease = 5*time.Second, 2, time.Second, 1.5, 4*time.Second, 2*time.Second
		},
		"breaker: {cooldown_ms: 3600000}": func(r *breaker.Rules) { r.Cooldown, r.MaxCooldown = time.Hour, time.Hour },
	} {
		s, err := loadWith(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		rules := breaker.Defaults()
		want(&rules)
		if diff := cmp.Diff(rules, s.Rules("x:*")); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
		if diff := cmp.Diff(breaker.Defaults(), s.Rules("gone")); diff != "" {
			t.Errorf("of a handler that is gone: %s", diff)
		}
	}
	for text, want := range map[string]string{
		"breaker: {window_ms: 10}":                            "window_ms must be",
		"breaker: {window_ms: 9223372036854775807}":           "window_ms must be",
		"breaker: {min_volume: 0}":                            "min_volume must be",
		"breaker: {failure_percent: 101}":                     "failure_percent must be",
		"breaker: {failure_percent: 0, consecutive: 0}":       "off: true",
		"breaker: {cooldown_ms: -9223372036854775808}":        "cooldown_ms must be",
		"breaker: {cooldown_ms: 5000, cooldown_max_ms: 4000}": "cooldown_max_ms must be",
		"breaker: {cooldown_growth: 0.5}":                     "cooldown_growth must be",
		"breaker: {cooldown_growth: .nan}":                    "cooldown_growth must be",
		"breaker: {probe_ms: 1}":                              "probe_ms must be",
		"breaker: {counts: [lost]}":                           `counts: "lost"`,
		"breaker: {counts: [cancelled]}":                      `counts: "cancelled"`,
		"breaker: {count: [exit]}":                            "count",
		"drivers: [container, local]":                         "the first must be the driver",
		"drivers: [local, local]":                             "there twice",
		"drivers: [local, '']":                                "is empty",
		"drivers: [local, a, b, c, d, e, f, g, h]":            "at most 8",
	} {
		if _, err := loadWith(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestDriversOfHandler(t *testing.T) {
	t.Parallel()
	s, err := loadWith("drivers: [local, container]")
	if err != nil {
		t.Fatal(err)
	}
	if got, known := s.Drivers("x:*"); !known || cmp.Diff([]string{"local", "container"}, got) != "" {
		t.Errorf("%v %v", got, known)
	}
	if _, known := s.Drivers("x:y"); known {
		t.Error("a tool below a prefix is no handler")
	}
}

// test:fail's own failures open its breaker, so that all of it can be seen.
func TestShippedBreakers(t *testing.T) {
	t.Parallel()
	dir, err := configs.Handlers()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := configs.Profiles()
	if err != nil {
		t.Fatal(err)
	}
	sizes, err := profile.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Load(dir, sizes)
	if err != nil {
		t.Fatal(err)
	}
	one := 1
	red := step.Verdict{Cause: step.CauseExit, ExitCode: &one}
	if got := s.Rules("test:fail").Judge(red); got != breaker.Bad {
		t.Errorf("test:fail: %v", got)
	}
	if got := s.Rules("bash").Judge(red); got != breaker.Good {
		t.Errorf("bash: %v", got)
	}
}
