package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostEnv makes the test binary a host of its own process; its value is the
// folder to work in.
const hostEnv = "NOFX_TEST_PLUGINHOST"

// runHostProcess is what the test binary does as a host: it runs the plugins
// of a folder until it is killed.
func runHostProcess(base string) {
	h, err := New(Config{
		Dir: filepath.Join(base, "plugins"), SocketDir: filepath.Join(base, "sockets"), PidDir: filepath.Join(base, "run"),
		AllowUnsigned: true, Configs: configsOf("memory", "clinging"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	go func() {
		if err := h.Ready(context.Background()); err == nil {
			_, _ = os.Stdout.WriteString("ready\n")
		}
	}()
	if err := h.Run(context.Background()); err != nil {
		panic(err)
	}
}

func TestPluginsEndWithAKilledHost(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	if err := os.Mkdir(filepath.Join(base, "plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	install(t, filepath.Join(base, "plugins"), "memory", nil)
	install(t, filepath.Join(base, "plugins"), "clinging", nil) // does not notice its host's end
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), hostEnv+"="+base)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatalf("the host process said %d bytes: %v", n, err)
	}
	fds := map[string]int{}
	for _, name := range []string{"memory", "clinging"} {
		r := rig{cfg: Config{PidDir: filepath.Join(base, "run")}}
		fd, err := unix.PidfdOpen(r.pid(t, name), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds[name] = fd
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := waitPidfd(fds["memory"], 10*time.Second); err != nil {
		t.Errorf("the plugin outlived its host: %v", err)
	}
	if err := waitPidfd(fds["clinging"], 200*time.Millisecond); err == nil {
		t.Error("the clinging plugin ended by itself: the rest of this test proves nothing")
	}
	// The next host kills what clings, and starts its own.
	log := &logBuffer{}
	r := run(t, Config{
		Dir: filepath.Join(base, "plugins"), SocketDir: filepath.Join(base, "sockets"), PidDir: filepath.Join(base, "run"),
		AllowUnsigned: true, Configs: configsOf("memory", "clinging"), Log: slog.New(slog.NewJSONHandler(log, nil)),
	}, log)
	r.echo(t, "memory")
	r.echo(t, "clinging")
	if err := waitPidfd(fds["clinging"], 5*time.Second); err != nil {
		t.Errorf("the earlier host's plugin: %v", err)
	}
	log.until(t, "killed a plugin that had outlived its host")
}

func TestOnlyOurOwnAreKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	same, err := describeProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	put := func(r any) string {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "x"+recordSuffix)
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for what, change := range map[string]func(*record){
		"start time": func(r *record) { r.Start++ },
		"boot":       func(r *record) { r.Boot = "another" },
		"executable": func(r *record) { r.Exe = "/usr/bin/another" },
		"pid":        func(r *record) { r.PID = os.Getpid() },
	} {
		r := same
		change(&r)
		name := put(r)
		if killed, _, err := killRecorded(dir, time.Minute); err != nil || len(killed) != 0 {
			t.Errorf("a record with another %s: killed %v, %v", what, killed, err)
		}
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a record with another %s stays: %v", what, err)
		}
	}
	put("garbage")
	if killed, _, err := killRecorded(dir, time.Minute); err != nil || len(killed) != 0 {
		t.Errorf("a record of garbage: killed %v, %v", killed, err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Fatalf("the process is gone: %v", err)
	}
	put(same)
	killed, _, err := killRecorded(dir, time.Minute)
	if err != nil || len(killed) != 1 {
		t.Errorf("the right record: killed %v, %v", killed, err)
	}
	if state := cmd.Wait(); state == nil || !strings.Contains(state.Error(), "killed") {
		t.Errorf("the process ended with %v", state)
	}
}

func TestLongSocketFolder(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory"}, func(c *Config) {
		c.SocketDir = filepath.Join(c.SocketDir, strings.Repeat("long", 30), strings.Repeat("long", 30))
	})
	r.echo(t, "memory")
}
