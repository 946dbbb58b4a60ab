package pluginhost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
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
	change func()             // something in info is new
	wake   chan struct{}      // capacity 1: look at the files, or try again
	cancel context.CancelFunc // ends run; the host's to set and call
	ended  chan struct{}      // closed when run has ended
	old    sync.WaitGroup     // processes whose place another took

	mu      sync.Mutex
	config  json.RawMessage
	current *process      // nil while none can be called
	up      chan struct{} // closed while current is set or the slot has given up
	failed  string        // why it is not being restarted for now; "" = it is
	until   time.Time     // when it will be again
	health  driver.Health // what current said last
	heard   *process      // the last that said anything of its health
	note    string        // what else there is to tell of it
	unused  string        // why the newest configuration is not config; "" = it is
	warned  string        // what the log has of the plugin's warnings
	state   wire.DriverInfo
}

func newSlot(cfg Config, name string, config json.RawMessage, change func()) *slot {
	return &slot{
		cfg: cfg, name: name, log: cfg.Log.With("driver", name), change: change, config: config,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), up: make(chan struct{}),
		state: idleInfo(name, "it was not started yet"),
	}
}

// poke has the slot look at its files, or try again if it rests.
func (s *slot) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run starts the plugin again and again until ctx ends. tried is called after
// the first try.
func (s *slot) run(ctx context.Context, tried func()) {
	defer close(s.ended)
	defer tried()
	pauses := &backoff.ExponentialBackOff{
		InitialInterval: firstPause, MaxInterval: maxPause, Multiplier: backoff.DefaultMultiplier, RandomizationFactor: 0.5,
	}
	deaths := 0
	for ctx.Err() == nil {
		life, err := s.once(ctx, tried)
		tried()
		if ctx.Err() != nil {
			break
		}
		if life.stable {
			deaths = 0
		}
		if !life.repeat || deaths == 0 {
			deaths++
		}
		refused := s.blame(err, "the plugin is not running", "deaths", deaths)
		switch {
		case refused || deaths > s.cfg.QuarantineAfter:
			s.quarantine(ctx, life.of, err)
			deaths = 0
		case deaths == 1:
			pauses.Reset()
			s.down(fmt.Sprintf("it is being restarted: %v", err))
		default:
			s.down(fmt.Sprintf("it is being restarted for the %d. time in a row: %v", deaths, err))
			s.rest(ctx, pauses.NextBackOff())
		}
	}
	s.down("it is not run any more")
	s.giveUp("it is not run any more", "", time.Time{})
	s.old.Wait()
	s.cfg.Observer.PluginGone(s.name)
}

// blame logs and counts why a process is not there, and reports whether the
// plugin was refused.
func (s *slot) blame(err error, what string, more ...any) bool {
	reason, refused := refusedFor(err)
	if refused {
		s.cfg.Observer.PluginRefused(s.name, reason)
		s.log.Error("the plugin is refused", append([]any{"reason", reason, "err", err}, more...)...)
	} else {
		s.cfg.Observer.PluginDied(s.name)
		s.log.Warn(what, append([]any{"err", err}, more...)...)
	}
	return refused
}

// life is what counts of a process that has ended.
type life struct {
	of     filesID
	stable bool // it had run for long
	repeat bool // it ended under a call that the one before it had ended under
}

// once runs a process from its start to its end, and those that take its place
// meanwhile. It gives the life of the last one, and why it ended.
func (s *slot) once(ctx context.Context, ready func()) (life, error) {
	of := filesOf(s.cfg, s.name)
	p, err := s.start(ctx, nil)
	if err == nil {
		err = s.admit(ctx, p)
	}
	if err != nil {
		return life{of: of}, err
	}
	ready()
	for {
		next, err := s.watch(ctx, p)
		if next == nil {
			s.down("it is not running")
			p.stop()
			if ctx.Err() == nil {
				p.last.tell(s.log)
			}
			return life{p.files, time.Since(p.started) >= s.cfg.Timeouts.Stable, p.repeats.Load() > 0}, err
		}
		s.retire(p)
		p = next
	}
}

// start starts a process of the plugin's file as it is now; nil when that is
// the file of p.
func (s *slot) start(ctx context.Context, p *process) (*process, error) {
	exe, err := openExecutable(s.cfg, s.name)
	if err != nil {
		return nil, err
	}
	defer exe.file.Close()
	if p != nil && p.sum == exe.sum {
		return nil, nil
	}
	s.mu.Lock()
	config := s.config
	s.mu.Unlock()
	next, err := startProcess(ctx, s.cfg, s.name, exe, config)
	if err == nil {
		s.cfg.Observer.PluginStarted(s.name)
	}
	return next, err
}

// admit lets calls through to p, once it has the configuration of now. On an
// error p is stopped.
func (s *slot) admit(ctx context.Context, p *process) error {
	s.announce(p)
	for {
		s.mu.Lock()
		config := s.config
		if bytes.Equal(config, p.config) {
			if s.current == nil {
				close(s.up)
			}
			s.current, s.note, s.health = p, "", driver.Health{Healthy: true}
			s.describe(p)
			warnings := p.desc.Warnings
			s.mu.Unlock()
			s.warn(warnings)
			s.changed()
			return nil
		}
		s.mu.Unlock()
		limit, cancel := context.WithTimeout(ctx, s.cfg.Timeouts.Start)
		desc, err := p.configure(limit, config)
		cancel()
		if err != nil {
			p.stop()
			return err
		}
		p.config, p.desc = config, desc
	}
}

// announce makes the pid file that of p.
func (s *slot) announce(p *process) {
	if err := p.traces.announce(p.child.PID()); err != nil {
		s.log.Warn("pid file", "err", err)
	}
}

// quarantine leaves the plugin alone until its files are others than those that
// were tried, its configuration changes, the host is told to reload, or the time
// is up.
func (s *slot) quarantine(ctx context.Context, of filesID, why error) {
	until := time.Now().Add(s.cfg.QuarantineFor)
	s.log.Error("the plugin is quarantined", "err", why, "until", until)
	reason, _ := refusedFor(why)
	s.giveUp(fmt.Sprintf("quarantined until its file changes or %s: %v", until.UTC().Format(time.RFC3339), why), reason, until)
	for ctx.Err() == nil && time.Now().Before(until) && filesOf(s.cfg, s.name) == of {
		if woken := s.rest(ctx, min(2*time.Second, time.Until(until))); woken {
			break
		}
	}
	s.mu.Lock()
	s.failed, s.until, s.up = "", time.Time{}, make(chan struct{})
	s.mu.Unlock()
	s.changed()
}

// rest waits for d, a poke or the end of ctx; it reports a poke.
func (s *slot) rest(ctx context.Context, d time.Duration) (woken bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.wake:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// acquire gives the running process, waiting for one if need be. The caller
// ends its call with calls.Done.
func (s *slot) acquire(ctx context.Context) (*process, error) {
	limit := time.NewTimer(s.cfg.Timeouts.Wait)
	defer limit.Stop()
	for {
		s.mu.Lock()
		p, up, failed, until := s.current, s.up, s.failed, s.until
		if p != nil && !p.dead() {
			p.calls.Add(1)
			s.mu.Unlock()
			return p, nil
		}
		s.mu.Unlock()
		switch {
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
