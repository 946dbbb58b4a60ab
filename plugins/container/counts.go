package container

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// counts are what the driver has done since its process began.
type counts struct {
	mu          sync.Mutex
	created     int // containers
	removed     int // at a Destroy's or a failed creation's word
	swept       int // by a sweep
	pulled      int // images
	notPulled   int
	pullSeconds float64
	failures    map[string]int // creations, by reason
	events      map[string]int // of the engine, by action
}

// told are the actions of containers that are counted; an engine tells of more.
var told = [...]string{"create", "start", "die", "oom", "kill", "destroy"}

// event counts one of the engine's.
func (c *counts) event(action string) {
	if !slices.Contains(told[:], action) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.events == nil {
		c.events = map[string]int{}
	}
	c.events[action]++
}

func (c *counts) add(what *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*what++
}

// pull counts one that has ended.
func (c *counts) pull(took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pullSeconds += took.Seconds()
	if err != nil {
		c.notPulled++
		return
	}
	c.pulled++
}

// failed counts a creation that came to nothing.
func (c *counts) failed(err error) {
	reason := string(step.KindOf(err))
	if errors.Is(err, context.Canceled) {
		reason = "cancelled"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failures == nil {
		c.failures = map[string]int{}
	}
	c.failures[reason]++
}

var _ driver.Metered = (*Driver)(nil)

// Metrics implements driver.Metered. That a step hit a cap is the daemon's to
// count: it is a cause of attempts that ended.
func (d *Driver) Metrics(context.Context) ([]driver.Sample, error) {
	sandboxes, err := d.Count()
	if err != nil {
		return nil, err
	}
	prefix := driver.SamplePrefix(Name)
	counter := func(name string, value float64) driver.Sample {
		return driver.Sample{Name: prefix + name + "_total", Kind: driver.Counter, Value: value}
	}
	labelled := func(name, label, of string, value float64) driver.Sample {
		s := counter(name, value)
		s.Labels = map[string]string{label: of}
		return s
	}
	c := &d.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []driver.Sample{
		{Name: prefix + "sandboxes", Kind: driver.Gauge, Value: float64(sandboxes)},
		counter("created", float64(c.created)), counter("removed", float64(c.removed)), counter("swept", float64(c.swept)),
		labelled("image_pulls", "result", "ok", float64(c.pulled)), labelled("image_pulls", "result", "failed", float64(c.notPulled)),
		counter("image_pull_seconds", c.pullSeconds),
	}
	for _, action := range slices.Sorted(maps.Keys(c.events)) {
		all = append(all, labelled("engine_events", "action", action, float64(c.events[action])))
	}
	for _, reason := range slices.Sorted(maps.Keys(c.failures)) {
		all = append(all, labelled("create_failures", "reason", reason, float64(c.failures[reason])))
	}
	return all, nil
}
