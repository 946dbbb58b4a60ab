package pluginhost

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// slot keeps one plugin running.
type slot struct {
	cfg    Config
	name   string
	log    *slog.Logger
	change func() // something in info is new

	mu      sync.Mutex
	current *process      // nil while none can be called
	up      chan struct{} // closed while current is set or the slot has given up
	failed  string        // why it is not being restarted for now; "" = it is
	until   time.Time     // when it will be again
	state   wire.DriverInfo
}

func newSlot(cfg Config, name string, change func()) *slot {
	return &slot{
		cfg: cfg, name: name, log: cfg.Log.With("driver", name), change: change, up: make(chan struct{}),
		state: wire.DriverInfo{Name: name, Message: "it was not started yet", Capabilities: []string{}},
	}
}

// run starts the plugin again and again until ctx ends. tried is called after
// the first try.
func (s *slot) run(ctx context.Context, tried func()) {
	defer tried()
	pauses := &backoff.ExponentialBackOff{
		InitialInterval: firstPause, MaxInterval: maxPause, Multiplier: backoff.DefaultMultiplier, RandomizationFactor: 0.5,
	}
	deaths := 0
	for ctx.Err() == nil {
		stable, err := s.once(ctx, tried)
		tried()
		if ctx.Err() != nil {
			break
		}
		if stable {
			deaths = 0
		}
		deaths++
		reason, refused := refusedFor(err)
		if refused {
			s.cfg.Observer.PluginRefused(s.name, reason)
			s.log.Error("the plugin is refused", "reason", reason, "err", err)
		} else {
			s.cfg.Observer.PluginDied(s.name)
			s.log.Warn("the plugin is not running", "err", err, "deaths", deaths)
		}
		switch {
		case refused || deaths > s.cfg.QuarantineAfter:
			s.quarantine(ctx, err)
			deaths = 0
		case deaths == 1:
			pauses.Reset()
			s.down(fmt.Sprintf("it is being restarted: %v", err))
		default:
			s.down(fmt.Sprintf("it is being restarted for the %d. time in a row: %v", deaths, err))
			pause(ctx, pauses.NextBackOff())
		}
	}
	s.down("the plugin host has ended")
	s.giveUp("the plugin host has ended", time.Time{})
	s.cfg.Observer.PluginGone(s.name)
}

// once runs one process from its start to its end. It gives why it ended, and
// whether it had run for long.
func (s *slot) once(ctx context.Context, ready func()) (stable bool, _ error) {
	p, err := startProcess(ctx, s.cfg, s.name)
	if err != nil {
		return false, err
	}
	s.cfg.Observer.PluginStarted(s.name)
	s.setCurrent(p)
	ready()
	err = s.watch(ctx, p)
	s.down("it is not running")
	p.stop()
	return time.Since(p.started) >= s.cfg.Timeouts.Stable, err
}

// watch follows a process's health until it ends, hangs or ctx ends.
func (s *slot) watch(ctx context.Context, p *process) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beats := make(chan driver.Health)
	ended := make(chan error, 1)
	go func() {
		ended <- p.driver.Health(ctx, func(h driver.Health) error {
			select {
			case beats <- h:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	silence := time.NewTimer(s.cfg.Timeouts.Health)
	defer silence.Stop()
	for {
		select {
		case h := <-beats:
			silence.Reset(s.cfg.Timeouts.Health)
			s.setHealth(p, h)
		case <-p.child.done:
			return fmt.Errorf("its process ended: %s", p.child.ended())
		case err := <-ended:
			select {
			case <-p.child.done: // the stream broke because of it
				return fmt.Errorf("its process ended: %s", p.child.ended())
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Second):
			}
			return fmt.Errorf("its health stream ended: %w", err)
		case <-silence.C:
			s.log.Error("the plugin hangs; killing it", "pid", p.child.pid(), "silent_for", s.cfg.Timeouts.Health)
			p.child.kill()
			return errHung
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// quarantine leaves the plugin alone until its file or its manifest changes or
// the time is up.
func (s *slot) quarantine(ctx context.Context, why error) {
	before := filesOf(s.cfg, s.name)
	until := time.Now().Add(s.cfg.QuarantineFor)
	s.log.Error("the plugin is quarantined", "err", why, "until", until)
	s.giveUp(fmt.Sprintf("quarantined until its file changes or %s: %v", until.UTC().Format(time.RFC3339), why), until)
	for ctx.Err() == nil && time.Now().Before(until) && filesOf(s.cfg, s.name) == before {
		pause(ctx, min(2*time.Second, time.Until(until)))
	}
	s.mu.Lock()
	s.failed, s.until, s.up = "", time.Time{}, make(chan struct{})
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

// giveUp fails calls at once; until is when another try may help, if ever.
func (s *slot) giveUp(why string, until time.Time) {
	s.mu.Lock()
	s.failed, s.until = why, until
	s.state.Healthy, s.state.Message = false, why
	close(s.up) // whoever waits for it need not
	s.mu.Unlock()
	s.changed()
}

// setCurrent lets calls through to p.
func (s *slot) setCurrent(p *process) {
	caps := make([]string, len(p.desc.Capabilities))
	for i, c := range p.desc.Capabilities {
		caps[i] = string(c)
	}
	s.mu.Lock()
	s.current = p
	s.state = wire.DriverInfo{
		Name: s.name, Version: p.desc.Version, Healthy: true, Message: strings.Join(p.desc.Warnings, "; "), Capabilities: caps,
	}
	close(s.up)
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
	s.state.Healthy, s.state.Message = false, why
	s.mu.Unlock()
	s.changed()
}

func (s *slot) setHealth(p *process, h driver.Health) {
	message := h.Message
	if message == "" {
		message = strings.Join(p.desc.Warnings, "; ")
	}
	s.mu.Lock()
	news := s.state.Healthy != h.Healthy || s.state.Message != message
	s.state.Healthy, s.state.Message = h.Healthy, message
	s.mu.Unlock()
	if news {
		s.changed()
	}
}

func (s *slot) info() wire.DriverInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// acquire gives the driver of the running process, waiting for one if need be.
func (s *slot) acquire(ctx context.Context) (*process, error) {
	limit := time.NewTimer(s.cfg.Timeouts.Wait)
	defer limit.Stop()
	for {
		s.mu.Lock()
		p, up, failed, until := s.current, s.up, s.failed, s.until
		s.mu.Unlock()
		switch {
		case p != nil && !p.dead():
			return p, nil
		case p != nil: // its supervisor is about to notice
			s.downIf(p, "it is not running")
			continue
		case failed != "":
			return nil, &step.Error{Kind: step.KindUnavailable, Message: "driver " + s.name + ": " + failed, RetryAfter: max(0, time.Until(until))}
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil, &step.Error{Kind: step.KindUnavailable, Message: "driver " + s.name + " is being restarted", Err: ctx.Err()}
		case <-limit.C:
			return nil, &step.Error{Kind: step.KindUnavailable, Message: "driver " + s.name + " is being restarted", RetryAfter: time.Second}
		}
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
