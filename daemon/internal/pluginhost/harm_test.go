package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// unharmed runs steps in memory until its stop is called, which checks that
// none failed, and that its process is the same as before.
func unharmed(t *testing.T, r *rig) (stop func()) {
	t.Helper()
	r.echo(t, "memory")
	pid := r.pid(t, "memory")
	d, err := r.Driver("memory")
	if err != nil {
		t.Fatal(err)
	}
	quit, done := make(chan struct{}), make(chan error, 1)
	steps := 0
	go func() {
		for {
			select {
			case <-quit:
				done <- nil
				return
			default:
			}
			if err := echo(context.WithoutCancel(t.Context()), d, fmt.Sprintf("other-%d", steps)); err != nil {
				done <- err
				return
			}
			steps++
		}
	}()
	return func() {
		t.Helper()
		close(quit)
		if err := <-done; err != nil || steps == 0 {
			t.Errorf("another driver's steps: %d went well, then: %v", steps, err)
		}
		if now := r.pid(t, "memory"); now != pid {
			t.Errorf("another driver's process: %d, was %d", now, pid)
		}
	}
}

// All the faults at once, and a driver beside them that does not notice.
func TestFaultsHarmNoOther(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory", "hang", "flood", "longline", "crash", "silent", "nonsense", "crafted", "mute", "huge", "hugestart", "verbose", "circle"}, func(c *Config) {
		c.Timeouts.Call = 10 * time.Second
		c.Timeouts.Start = 20 * time.Second
		c.Timeouts.Wait = 300 * time.Millisecond
	})
	stop := unharmed(t, r)
	for _, name := range []string{"hang", "huge", "verbose", "crafted"} {
		r.infoOf(t, name, "healthy", healthy)
	}
	hang, err := r.Driver("hang")
	if err != nil {
		t.Fatal(err)
	}
	h, err := hang.Create(bg(t), driver.Spec{ID: "box", Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone})
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			if _, err := hang.Stats(bg(t), h); !step.Is(err, step.KindUnavailable) {
				t.Errorf("a call that hangs: %v", err)
			}
		})
	}
	calls.Wait()
	// A message over the bound fails its call, not its connection.
	huge, err := r.Driver("huge")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := huge.List(bg(t), "test"); !step.Is(err, step.KindTooLarge) {
			t.Errorf("a message of 5 MiB: %v", err)
		}
	}
	r.echo(t, "huge")
	for _, name := range []string{"crash", "nonsense", "hugestart", "circle"} {
		r.infoOf(t, name, "quarantined", func(i wire.DriverInfo) bool { return strings.HasPrefix(i.Message, "quarantined") })
	}
	r.log.until(t, "lines were dropped")
	stop()
	// What they say of themselves is short and plain, whoever asks.
	verbose, err := r.Driver("verbose")
	if err != nil {
		t.Fatal(err)
	}
	if d, err := verbose.Describe(bg(t)); err != nil || d.Version != tame(d.Version, maxVersion) || d.Version == "" {
		t.Errorf("its version has %d bytes: %.20q, %v", len(d.Version), d.Version, err)
	}
	for _, i := range r.Infos() {
		if len(i.Version) > maxVersion || len(i.Message) > maxMessage || len(i.Capabilities) > maxCapabilities || strings.ContainsAny(i.Version+i.Message, "\x00\n") {
			t.Errorf("%s: %d bytes of version, %d of message, %d capabilities", i.Name, len(i.Version), len(i.Message), len(i.Capabilities))
		}
	}
}

// A plugin that speaks of its health without end is made to wait.
func TestHealthFlood(t *testing.T) {
	t.Parallel()
	seen := &counter{}
	r := start(t, []string{"memory", "chatty"}, func(c *Config) { c.Observer = seen })
	stop := unharmed(t, r)
	r.infoOf(t, "chatty", "flooding", func(i wire.DriverInfo) bool { return len(i.Message) > 1 })
	before, began := seen.states.Load(), time.Now()
	eventually(t, "it said more", func() bool { return seen.states.Load() > before+20 })
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("it said 20 things in %v", took)
	}
	stop()
}

// counter counts what it is told of the drivers' states.
type counter struct {
	watcher
	states atomic.Int64
}

func (c *counter) PluginState(d string, healthy, quarantined bool) {
	c.states.Add(1)
	c.watcher.PluginState(d, healthy, quarantined)
}

// A plugin that takes memory without end dies in its own control group, again
// and again if it must.
func TestLeakIsKeptInItsGroup(t *testing.T) {
	t.Parallel()
	tree, err := cgroup.Open(fmt.Sprintf("nofxtest-plugins-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the host has ended
		if err := tree.RemoveAll(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	const limit = 128 << 20
	r := start(t, []string{"memory", "hog"}, func(c *Config) {
		c.Place = func(name string, pid int) error {
			if err := tree.PlacePlugin(name, pid); err != nil {
				return err
			}
			file, err := memoryLimit(pid)
			if err != nil {
				return err
			}
			if had, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(had)) != strconv.Itoa(1<<30) {
				return fmt.Errorf("%s says %q, %w", file, had, err)
			}
			return os.WriteFile(file, []byte(strconv.Itoa(limit)), 0)
		}
	})
	stop := unharmed(t, r)
	for range 2 {
		r.infoOf(t, "hog", "healthy", healthy)
		pid := r.pid(t, "hog")
		d, err := r.Driver("hog")
		if err != nil {
			t.Fatal(err)
		}
		h, err := d.Create(bg(t), driver.Spec{ID: "box", Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Stats(bg(t), h); !step.Is(err, step.KindUnavailable) {
			t.Errorf("the call that leaks: %v", err)
		}
		r.log.until(t, "signal: killed")
		gone(t, pid)
		r.infoOf(t, "hog", "another process", func(i wire.DriverInfo) bool { return i.Healthy && r.pid(t, "hog") != pid })
	}
	stop()
}

// memoryLimit is the file with the memory cap of a process's control group.
func memoryLimit(pid int) (string, error) {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(parts) != 3:
		case parts[1] == "memory":
			return filepath.Join("/sys/fs/cgroup/memory", parts[2], "memory.limit_in_bytes"), nil
		case parts[1] == "" && strings.Contains(parts[2], "plugin_"):
			return filepath.Join("/sys/fs/cgroup", parts[2], "memory.max"), nil
		}
	}
	return "", fmt.Errorf("process %d is in no memory group: %s", pid, groups)
}

func TestHangingCall(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"hang"}, func(c *Config) { c.Timeouts.Call = 3 * time.Second })
	r.infoOf(t, "hang", "healthy", healthy)
	d, _ := r.Driver("hang")
	h, err := d.Create(bg(t), driver.Spec{ID: "box", Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := d.Stats(bg(t), h); !step.Is(err, step.KindUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call that hangs: %v", err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := d.Destroy(bg(t), h); err != nil {
		t.Errorf("another call meanwhile: %v", err)
	}
}

func TestHangingProcessIsKilled(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory", "mute"}, func(c *Config) { c.Timeouts.Health = 12 * time.Second })
	r.infoOf(t, "memory", "healthy", healthy)
	r.infoOf(t, "mute", "healthy", healthy)
	d, _ := r.Driver("memory")
	h, err := d.Create(bg(t), driver.Spec{ID: "box", Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone})
	if err != nil {
		t.Fatal(err)
	}
	pid := r.pid(t, "memory")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Even a stream without a deadline comes back, when the silence is noticed.
	if err := d.Exec(bg(t), h, driver.ExecSpec{ID: "main", Argv: []string{"mem", "wait", "1000"}}, func(driver.ExecEvent) error { return nil }); !step.Is(err, step.KindUnavailable) {
		t.Errorf("an exec in a stopped process: %v", err)
	}
	r.echo(t, "memory")
	if r.pid(t, "memory") == pid {
		t.Error("the stopped process is still in use")
	}
	r.log.until(t, `"driver":"mute","pid"`)
}
