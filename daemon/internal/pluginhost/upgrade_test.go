package pluginhost

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func looking(c *Config) {
	c.Timeouts.Look = 50 * time.Millisecond
	c.Timeouts.Drain = 500 * time.Millisecond
}

// gone waits for a process's end.
func gone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "the old process has ended", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}

// While a plugin is replaced, no call fails, but for a stream that lasts longer
// than the old process is given: that one says, ask Recover.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	seen := &watcher{}
	r := start(t, []string{"memory"}, looking, func(c *Config) { c.Observer = seen })
	r.echo(t, "memory")
	old := r.pid(t, "memory")
	d, _ := r.Driver("memory")
	h, err := d.Create(bg(t), driver.Spec{ID: "long", Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone})
	if err != nil {
		t.Fatal(err)
	}
	cut, begun := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		cut <- d.Exec(bg(t), h, driver.ExecSpec{ID: "main", Argv: []string{"mem", "wait", "100000"}}, func(driver.ExecEvent) error {
			begun <- struct{}{}
			return nil
		})
	}()
	<-begun
	quit, calls := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-quit:
				calls <- nil
				return
			default:
			}
			if _, err := d.List(bg(t), "test"); err != nil {
				calls <- err
				return
			}
		}
	}()
	install(t, r.cfg.Dir, "memory", []byte("a newer build"))
	eventually(t, "the plugin was replaced", func() bool { return r.pid(t, "memory") != old })
	if err := <-cut; !step.Is(err, step.KindUnavailable) {
		t.Errorf("the stream under way: %v", err)
	}
	gone(t, old)
	close(quit)
	if err := <-calls; err != nil {
		t.Errorf("a call meanwhile: %v", err)
	}
	r.echo(t, "memory")
	if i := r.infoOf(t, "memory", "healthy", healthy); strings.Contains(i.Message, "new file") {
		t.Errorf("info %+v", i)
	}
	if started, died, _ := seen.counts("memory"); started != 2 || died != 0 {
		t.Errorf("started %d, died %d", started, died)
	}
	eventually(t, "the old process's record is gone", func() bool {
		records, _ := filepath.Glob(filepath.Join(r.cfg.SocketDir, "*"+recordSuffix))
		return len(records) == 1
	})

	// The same bytes in a new file change nothing.
	now := r.pid(t, "memory")
	install(t, r.cfg.Dir, "memory", []byte("a newer build"))
	r.log.until(t, "holds what the old one did")
	if r.pid(t, "memory") != now || syscall.Kill(now, 0) != nil {
		t.Error("the process was replaced for nothing")
	}
}

// A new file that is no good leaves the old process where it is.
func TestBadUpgrade(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	script := func(body string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			tmp := filepath.Join(dir, "new")
			if err := errors.Join(os.WriteFile(tmp, []byte("#!/bin/sh\n"+body+"\n"), 0o755), os.Rename(tmp, filepath.Join(dir, prefix+"memory"))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		bad    func(*testing.T, string)
		signed bool
		says   string
	}{
		"crashes at start": {bad: script("echo I am broken >&2; exit 3"), says: "exit status 3"},
		"says nothing":     {bad: script("exec sleep 1000"), says: "deadline"},
		"not signed": {bad: func(t *testing.T, dir string) { t.Helper(); install(t, dir, "memory", []byte("x")) },
			signed: true, says: "not the file that the manifest vouches for"},
		"no program": {bad: func(t *testing.T, dir string) {
			t.Helper()
			tmp := filepath.Join(dir, "new")
			if err := errors.Join(os.WriteFile(tmp, []byte("\x7fELF"), 0o755), os.Rename(tmp, filepath.Join(dir, prefix+"memory"))); err != nil {
				t.Fatal(err)
			}
		}, says: "exec format error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := &watcher{}
			r := start(t, []string{"memory"}, looking, func(cfg *Config) {
				cfg.Observer = seen
				cfg.Timeouts.Start = 5 * time.Second
				if c.signed {
					cfg.AllowUnsigned, cfg.ManifestKey = false, pluginmanifest.PublicOf(key)
					signDir(t, cfg.Dir, key, "memory")
				}
			})
			r.echo(t, "memory")
			old := r.pid(t, "memory")
			c.bad(t, r.cfg.Dir)
			i := r.infoOf(t, "memory", "said to have a bad file", func(i wire.DriverInfo) bool { return strings.Contains(i.Message, "its new file is not used") })
			if !i.Healthy || !strings.Contains(i.Message, c.says) {
				t.Errorf("info %+v, want it healthy and to say %q", i, c.says)
			}
			r.echo(t, "memory")
			if r.pid(t, "memory") != old {
				t.Error("the old process was replaced")
			}
			r.log.until(t, "the plugin's new file is not used; the old process stays")
			if reason := seen.refusals("memory")["memory"]; (reason == reasonSwapped) != c.signed {
				t.Errorf("refused for %q", reason)
			}
			// Then comes a good one.
			install(t, r.cfg.Dir, "memory", []byte("good"))
			if c.signed {
				signDir(t, r.cfg.Dir, key, "memory")
			}
			eventually(t, "the plugin was replaced", func() bool { return r.pid(t, "memory") != old })
			gone(t, old)
			r.infoOf(t, "memory", "healthy", func(i wire.DriverInfo) bool { return i.Healthy && !strings.Contains(i.Message, "new file") })
			r.echo(t, "memory")
		})
	}
}

// The old file, put back, is not a new one that is waited for.
func TestUpgradeTakenBack(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory"}, looking)
	r.echo(t, "memory")
	pid, path := r.pid(t, "memory"), filepath.Join(r.cfg.Dir, prefix+"memory")
	for range 2 {
		if err := errors.Join(os.Rename(path, filepath.Join(r.cfg.Dir, "old")), os.WriteFile(path, []byte("#!/bin/sh\nexit 3\n"), 0o755)); err != nil {
			t.Fatal(err)
		}
		r.infoOf(t, "memory", "said to have a bad file", func(i wire.DriverInfo) bool { return strings.Contains(i.Message, "its new file is not used") })
		if err := os.Rename(filepath.Join(r.cfg.Dir, "old"), path); err != nil {
			t.Fatal(err)
		}
		r.infoOf(t, "memory", "as before", func(i wire.DriverInfo) bool { return i.Healthy && !strings.Contains(i.Message, "new file") })
	}
	if now := r.pid(t, "memory"); now != pid {
		t.Errorf("process %d was replaced by %d", pid, now)
	}
}

// The host's end in the middle of it leaves nothing.
func TestEndDuringAnUpgrade(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory"}, looking)
	r.echo(t, "memory")
	tmp := filepath.Join(r.cfg.Dir, "new")
	mark := filepath.Join(r.cfg.Dir, "began")
	if err := errors.Join(os.WriteFile(tmp, []byte("#!/bin/sh\necho $$ >"+mark+"\nexec sleep 1000\n"), 0o755),
		os.Rename(tmp, filepath.Join(r.cfg.Dir, prefix+"memory"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new process began", func() bool { st, err := os.Stat(mark); return err == nil && st.Size() > 0 })
	r.stop()
	if left, _ := filepath.Glob(filepath.Join(r.cfg.SocketDir, "*.json")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
