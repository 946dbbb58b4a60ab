package pluginhost

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Host runs the plugins of one folder.
type Host struct {
	cfg     Config
	changed chan struct{} // capacity 1: something in Infos is new
	ready   chan struct{} // closed when each plugin was tried once
	once    sync.Once     // Run
	reload  sync.Mutex    // one Reload at a time
	running sync.WaitGroup

	mu     sync.Mutex
	launch func(s *slot, tried func()) // runs a slot until it is cancelled or Run ends; nil while none may be
	slots  map[string]*slot
	idle   []wire.DriverInfo // configured, but no such plugin; or a plugin that is not configured
}

// New looks for the plugins; Run starts them.
func New(cfg Config) (*Host, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, slots: map[string]*slot{}, changed: make(chan struct{}, 1), ready: make(chan struct{})}
	p, err := h.plan(cfg.Configs)
	if err != nil {
		return nil, err
	}
	h.idle = p.idle
	for name, config := range p.run {
		h.slots[name] = newSlot(cfg, name, config, h.change)
	}
	return h, nil
}

// Run starts every configured plugin and keeps it running until ctx ends, then
// stops them all. It can be called once.
func (h *Host) Run(ctx context.Context) error {
	err := step.Errorf(step.KindConflict, "plugin host: it ran already")
	h.once.Do(func() { err = nil })
	if err != nil {
		return err
	}
	unlock, perr := h.prepare()
	if perr != nil {
		return perr
	}
	defer unlock()
	var tried sync.WaitGroup
	h.mu.Lock()
	h.launch = func(s *slot, tried func()) {
		ctx, cancel := context.WithCancel(ctx)
		s.cancel = cancel
		h.running.Go(func() {
			defer cancel()
			s.run(ctx, tried)
		})
	}
	for _, s := range h.slots {
		tried.Add(1)
		h.launch(s, sync.OnceFunc(tried.Done))
	}
	h.mu.Unlock()
	tried.Wait()
	close(h.ready)
	<-ctx.Done()
	h.mu.Lock()
	h.launch = nil
	h.mu.Unlock()
	h.running.Wait()
	return nil
}

// prepare takes hold of the socket folder and clears what an earlier host left.
func (h *Host) prepare() (unlock func(), err error) {
	if err := os.MkdirAll(h.cfg.SocketDir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(h.cfg.SocketDir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(h.cfg.SocketDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, step.Errorf(step.KindConflict, "plugin host: another one uses %s", h.cfg.SocketDir)
	}
	unlock = func() { _ = lock.Close() }
	if err := h.clear(); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// clear ends the plugins of a host that was killed and removes their traces.
func (h *Host) clear() error {
	killed, stuck, err := killRecorded(h.cfg.SocketDir, h.cfg.Timeouts.Mercy)
	for _, r := range killed {
		h.cfg.Log.Warn("killed a plugin that had outlived its host", "pid", r.PID, "exe", r.Exe)
	}
	for _, r := range stuck {
		h.cfg.Log.Error("a plugin that had outlived its host cannot be killed; it is left behind", "pid", r.PID, "exe", r.Exe)
	}
	if err != nil {
		return err
	}
	folders, err := filepath.Glob(filepath.Join(h.cfg.SocketDir, socketPattern+"*"))
	if err != nil {
		return err
	}
	for _, folder := range folders {
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	if h.cfg.PidDir == "" {
		return nil
	}
	return os.MkdirAll(h.cfg.PidDir, 0o755)
}

// Driver gives a driver that stays the same over restarts of its plugin:
// not_found if there is no such plugin. A call while it restarts waits for
// Timeouts.Wait, then fails with unavailable.
func (h *Host) Driver(name string) (driver.Driver, error) {
	h.mu.Lock()
	s, ok := h.slots[name]
	h.mu.Unlock()
	if !ok {
		return nil, step.Errorf(step.KindNotFound, "there is no driver %.40q here", name)
	}
	return &proxy{slot: s, t: h.cfg.Timeouts}, nil
}

// Infos tells of every plugin, in the order of their names; those that were
// configured and not found, or found and not configured, are among them.
func (h *Host) Infos() []wire.DriverInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Clone(h.idle)
	for _, s := range h.slots {
		all = append(all, s.info())
	}
	slices.SortFunc(all, func(a, b wire.DriverInfo) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Changed has a value whenever Infos may have become different since it was
// last read. It is for one reader.
func (h *Host) Changed() <-chan struct{} { return h.changed }

func (h *Host) change() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// Ready waits until each plugin was tried once.
func (h *Host) Ready(ctx context.Context) error {
	select {
	case <-h.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
