package pluginhost

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// freezerV1 holds processes in a way that not even SIGKILL gets through to, as a
// file system that hangs does. With cgroup v2 alone nothing is that cruel.
const freezerV1 = "/sys/fs/cgroup/freezer"

// freeze makes a process one that cannot be killed, until thaw, which the end of
// the test calls too.
func freeze(t *testing.T, pid int) (thaw func()) {
	t.Helper()
	group := filepath.Join(freezerV1, fmt.Sprintf("nofxtest_%08x", rand.Uint32()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(group, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("cgroup.procs", strconv.Itoa(pid))
	put("freezer.state", "FROZEN")
	eventually(t, "it is frozen", func() bool {
		state, err := os.ReadFile(filepath.Join(group, "freezer.state"))
		return err == nil && string(state) == "FROZEN\n"
	})
	thaw = func() { put("freezer.state", "THAWED") }
	t.Cleanup(func() {
		thaw()
		eventually(t, "its group is empty", func() bool { return os.Remove(group) == nil })
	})
	return thaw
}

// A plugin that the kernel does not let go of holds up nothing: calls to it end, its
// driver is started anew, and the host ends when it is to. The next host does not
// wait for it either, and ends it when that can be done.
func TestPluginThatCannotBeKilled(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(freezerV1); err != nil {
		t.Log("this host has nothing to hold a process with: ", err)
		return
	}
	quick := func(c *Config) {
		c.Timeouts.Health, c.Timeouts.Mercy, c.Timeouts.Stop = 15*time.Second, time.Second, time.Second
	}
	r := start(t, []string{"memory"}, quick)
	r.echo(t, "memory")
	d, err := r.Driver("memory")
	if err != nil {
		t.Fatal(err)
	}
	h, err := d.Create(bg(t), driver.Spec{ID: "box", Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone})
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan error, 1)
	ready := make(chan struct{})
	say := sync.OnceFunc(func() { close(ready) })
	go func() {
		called <- d.Exec(t.Context(), h, driver.ExecSpec{ID: "main", Argv: []string{"mem", "wait", "3600"}}, func(driver.ExecEvent) error {
			say()
			return nil
		})
	}()
	<-ready
	stuck := r.pid(t, "memory")
	thaw := freeze(t, stuck)
	select {
	case err := <-called:
		if !step.Is(err, step.KindUnavailable) {
			t.Errorf("a call to it: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("a call to it does not end")
	}
	r.log.until(t, "cannot be killed; it is left behind")
	r.infoOf(t, "memory", "healthy", func(i wire.DriverInfo) bool { return i.Healthy && r.pid(t, "memory") != stuck })
	r.echo(t, "memory")
	r.stop()
	if err := syscall.Kill(stuck, 0); err != nil {
		t.Fatalf("it was not stuck: %v", err)
	}

	log := &logBuffer{}
	cfg := r.cfg
	cfg.Log = slog.New(slog.NewJSONHandler(log, nil))
	next := run(t, cfg, log)
	next.echo(t, "memory")
	log.until(t, "cannot be killed; it is left behind")
	thaw()
	eventually(t, "it ends", func() bool { return syscall.Kill(stuck, 0) != nil })
}
