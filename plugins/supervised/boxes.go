// Package supervised is what drivers share whose sandboxes have a supervisor
// on the host: each sandbox is a folder below the driver's state folder, and
// every call but the making of a sandbox goes to its supervisor or to the
// files that it keeps. A driver embeds Boxes and adds how a sandbox is made.
package supervised

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nofx-run/nofx/internal/keylock"
	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Engine is what a sandbox has beside the supervisor's processes and folder.
// The calls come with the sandbox's lock held.
type Engine interface {
	// Remove removes it. No process of the sandbox runs any more; it may be
	// asked again for what is gone.
	Remove(ctx context.Context, id, dir string) error
	// Amend may say more about an exec whose supervisor saw it end without
	// knowing why.
	Amend(ctx context.Context, id, dir string, x *driver.Exit)
}

// bare is the engine of a sandbox that has nothing else.
type bare struct{}

func (bare) Remove(context.Context, string, string) error        { return nil }
func (bare) Amend(context.Context, string, string, *driver.Exit) {}

// Boxes are the sandboxes of one driver. New makes it; Use makes it useful.
type Boxes struct {
	name   string
	engine Engine
	locks  keylock.Locks // by sandbox folder: create, destroy and settle exclude one another

	mu       sync.Mutex
	stateDir string
	launcher *supervisor.Launcher
	egress   *egress.Host // nil: no sandbox can have a network here
	noEgress error        // why
	levels   levels
	idle     map[string]*supervisor.Conn // by sandbox folder: one connection to use next
}

// New gives the sandboxes of the driver of that name; engine may be nil.
func New(name string, engine Engine) *Boxes {
	if engine == nil {
		engine = bare{}
	}
	return &Boxes{name: name, engine: engine, idle: map[string]*supervisor.Conn{}}
}

// Use says where new sandboxes are kept and who starts them, in place of what
// was said before, and goes on with removals that were cut off.
func (b *Boxes) Use(stateDir string, l *supervisor.Launcher) error {
	b.mu.Lock()
	old := b.launcher
	b.stateDir, b.launcher = stateDir, l
	b.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return b.removeRemains(stateDir)
}

// UseNetwork says how sandboxes get a network, or why they cannot.
func (b *Boxes) UseNetwork(h *egress.Host, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.egress, b.noEgress = h, why
}

// Network gives what sandboxes get a network with.
func (b *Boxes) Network() (*egress.Host, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.egress == nil {
		why := b.noEgress
		if why == nil {
			why = errors.New("the driver has no configuration yet")
		}
		return nil, step.Errorf(step.KindUnsupported, "driver %s: sandboxes can have no network on this host: %w", b.name, why)
	}
	return b.egress, nil
}

// Networks are the capabilities that a driver has for the network, and a
// warning for operators when it lacks some.
func (b *Boxes) Networks() (caps driver.Capabilities, warning string) {
	caps = driver.Capabilities{driver.CapNetNone}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.levels.always: // gVisor, and none of its sandboxes has one
	case b.egress != nil:
		caps = append(caps, driver.CapNetAllow, driver.CapNetOpen)
	case b.noEgress != nil:
		warning = "sandboxes can have no network: " + b.noEgress.Error()
	}
	return caps, warning
}

// BlockIO reports whether this host can bound what a group reads and writes.
func BlockIO() bool {
	if data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return slices.Contains(strings.Fields(string(data)), "io")
	}
	_, err := os.Stat("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
	return err == nil
}

// Close ends the spawner and closes the connections. Sandboxes go on.
func (b *Boxes) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for dir, c := range b.idle {
		c.Close()
		delete(b.idle, dir)
	}
	if b.launcher != nil {
		b.launcher.Close()
		b.launcher = nil
	}
}

// configured gives what a new sandbox is made with.
func (b *Boxes) configured() (string, *supervisor.Launcher, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.launcher == nil {
		return "", nil, step.Errorf(step.KindUnavailable, "the driver has no configuration yet")
	}
	return b.stateDir, b.launcher, nil
}

// Alive reports whether sandboxes can be made.
func (b *Boxes) Alive() error {
	_, l, err := b.configured()
	if err != nil {
		return err
	}
	return l.Alive()
}

// Watch sends what check finds to sink at once and every 5 s, until ctx ends:
// a driver's Health.
func Watch(ctx context.Context, check func(context.Context) error, sink func(driver.Health) error) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		h := driver.Health{Healthy: true}
		if err := check(ctx); err != nil {
			h = driver.Health{Message: err.Error()}
		}
		if err := sink(h); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Count is how many sandboxes have a folder here.
func (b *Boxes) Count() (int, error) {
	stateDir, _, err := b.configured()
	if err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(stateDir)
	if err != nil {
		return 0, step.Errorf(step.KindUnavailable, "state_dir: %w", err)
	}
	n := 0
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			n++
		}
	}
	return n, nil
}

// connect gives a connection to the supervisor of a sandbox; supervisor.ErrGone
// when it has none.
func (b *Boxes) connect(ctx context.Context, dir string) (*supervisor.Conn, error) {
	b.mu.Lock()
	c := b.idle[dir]
	delete(b.idle, dir)
	b.mu.Unlock()
	if c != nil {
		return c, nil
	}
	return supervisor.Dial(ctx, dir)
}

// release keeps a connection whose last call has ended well for the next one.
func (b *Boxes) release(dir string, c *supervisor.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.idle[dir] != nil || b.launcher == nil {
		c.Close()
		return
	}
	b.idle[dir] = c
}

// forget closes what is kept for a sandbox that is no more.
func (b *Boxes) forget(dir string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.idle[dir]; c != nil {
		c.Close()
		delete(b.idle, dir)
	}
}

// handleVersion is that of handleData.
const handleVersion = 1

// handleData is what a handle holds: where the sandbox's folder is, whatever
// the configuration says by then.
type handleData struct {
	StateDir string `json:"state_dir"`
}

// Handle gives the handle of a sandbox below stateDir.
func (b *Boxes) Handle(stateDir, id string) (driver.Handle, error) {
	data, err := json.Marshal(handleData{stateDir})
	if err != nil {
		return driver.Handle{}, step.Errorf(step.KindInternal, "handle: %w", err)
	}
	return driver.Handle{Driver: b.name, ID: id, Version: handleVersion, Data: data}, nil
}

// Folder gives the folder of the sandbox that a handle names.
func (b *Boxes) Folder(h driver.Handle) (string, error) {
	if h.Driver != b.name || h.Version != handleVersion {
		return "", step.Errorf(step.KindInvalid, "the handle is of driver %.40q, version %d; this is %s, version %d", h.Driver, h.Version, b.name, handleVersion)
	}
	if err := (driver.Spec{ID: h.ID, Tags: driver.Tags{Owner: "x", ID: "x"}}).Validate(); err != nil {
		return "", err
	}
	var data handleData
	if err := json.Unmarshal(h.Data, &data); err != nil || !filepath.IsAbs(data.StateDir) || filepath.Clean(data.StateDir) != data.StateDir {
		return "", step.Errorf(step.KindInvalid, "the handle of %s cannot be read", h.ID)
	}
	return filepath.Join(data.StateDir, h.ID), nil
}

// StateDir is where new sandboxes are kept, "" before Use.
func (b *Boxes) StateDir() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stateDir
}
