package supervise

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// eventually polls until ok, at most ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func pidOf(dir, name string) int {
	body, err := os.ReadFile(filepath.Join(dir, name+".pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(body)))
	return pid
}

// start runs a child in a temporary folder and returns it, the folder, and
// what stops it and gives Run's result.
func start(t *testing.T, spec Spec, hurry chan struct{}) (c *Child, dir string, stop func() error) {
	t.Helper()
	dir = t.TempDir()
	c = New(spec, dir, dir, quiet())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, hurry) }()
	var stopped bool
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() { _ = stop() })
	return c, dir, stop
}

func script(text string) func() (*exec.Cmd, error) {
	return func() (*exec.Cmd, error) { return exec.Command("/bin/sh", "-c", text), nil }
}

func TestChildIsRestartedAndStopped(t *testing.T) {
	t.Parallel()
	c, dir, stop := start(t, Spec{Name: "kid", Command: script("echo hello; exec sleep 600"), Stop: syscall.SIGTERM, Grace: 5 * time.Second}, nil)
	greetings := func() int {
		log, _ := os.ReadFile(c.LogPath())
		return strings.Count(string(log), "hello\n")
	}
	for n := range 3 {
		eventually(t, "greeting", func() bool { return greetings() == n+1 && pidOf(dir, "kid") != 0 })
		pid := pidOf(dir, "kid")
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "restart", func() bool { p := pidOf(dir, "kid"); return p != 0 && p != pid })
	}
	eventually(t, "last greeting", func() bool { return greetings() == 4 })
	if n, _ := c.Starts(); n != 4 {
		t.Errorf("started %d times, want 4", n)
	}
	last := pidOf(dir, "kid")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(last, 0); err == nil {
		t.Error("the child still lives")
	}
	if pidOf(dir, "kid") != 0 {
		t.Error("the pid file stays")
	}
}

// A child that ignores its stop signal is killed, soon when in a hurry.
func TestStubbornChild(t *testing.T) {
	t.Parallel()
	hurry := make(chan struct{})
	_, dir, stop := start(t, Spec{Name: "mule", Command: script("trap '' TERM; echo ready; exec sleep 600"), Stop: syscall.SIGTERM, Grace: time.Hour}, hurry)
	eventually(t, "ready", func() bool { body, _ := os.ReadFile(filepath.Join(dir, "mule.log")); return len(body) > 0 })
	close(hurry)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestFirstStartFailing(t *testing.T) {
	t.Parallel()
	c := New(Spec{Name: "none", Command: func() (*exec.Cmd, error) { return exec.Command("/does/not/exist"), nil }}, t.TempDir(), t.TempDir(), quiet())
	if err := c.Run(t.Context(), nil); err == nil {
		t.Error("no error")
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	if pause(1) != 0 {
		t.Error("the first restart waits")
	}
	for n := 2; n < 200; n++ {
		if d := pause(n); d <= 0 || d > maxPause {
			t.Fatalf("pause(%d) = %v", n, d)
		}
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	f, err := openLog(filepath.Join(t.TempDir(), "x.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strings.Repeat("old line\n", 200)); err != nil {
		t.Fatal(err)
	}
	if err := rotateOnce(f, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("new\n"); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(f.Name())
	if err != nil || string(now) != "new\n" {
		t.Errorf("log: %q, %v", now, err)
	}
	before, err := os.ReadFile(f.Name() + ".1")
	if err != nil || len(before) != 1000 || !strings.HasSuffix(string(before), "old line\n") {
		t.Errorf("old log: %d bytes, %v", len(before), err)
	}
}

func TestReadLines(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(path, []byte("one\ntwo\nthr"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	offset, err := ReadLines(path, 4, func(l []byte) { got = append(got, string(l)) })
	if err != nil || offset != 8 || len(got) != 1 || got[0] != "two" {
		t.Errorf("%q, offset %d, %v", got, offset, err)
	}
	if tail := Tail(path); tail != "thr" {
		t.Errorf("tail %q", tail)
	}
}

// sleeper starts a process as an earlier supervisor would have left it.
func sleeper(t *testing.T, text string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", text)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it has set its traps
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	go func() { // as init would
		defer close(reaped)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-reaped })
	return cmd
}

func TestEndStale(t *testing.T) {
	t.Parallel()
	how := Signalling{{syscall.SIGTERM, 50 * time.Millisecond}, {syscall.SIGKILL, 10 * time.Second}}
	for name, text := range map[string]string{
		"obedient": "echo; exec sleep 600",
		"stubborn": "trap '' TERM; echo; while :; do read x; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := sleeper(t, text)
			if err := writePid(dir, "old", cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			found, err := EndStale(t.Context(), dir, "old", how)
			if err != nil || !found {
				t.Fatalf("found %v, %v", found, err)
			}
			if pidOf(dir, "old") != 0 {
				t.Error("the pid file stays")
			}
		})
	}
}

// One that its supervisor died too soon to record is found, and its namesake of
// another installation is not.
func TestEndStaleWithoutARecord(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	start := func(env string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "sleep", "600")
		cmd.Env = []string{env}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = cmd.Wait() }() // it is killed
		return cmd
	}
	stale, mine, stranger := start(mark(dir, "old")), start(mark(dir, "older")), start(mark(other, "old"))
	found, err := EndStale(t.Context(), dir, "old", Signalling{{syscall.SIGTERM, 10 * time.Second}})
	if err != nil || !found {
		t.Fatalf("found %v, %v", found, err)
	}
	if err := syscall.Kill(stale.Process.Pid, 0); err == nil {
		t.Error("it lives")
	}
	for _, cmd := range []*exec.Cmd{mine, stranger} {
		if err := syscall.Kill(cmd.Process.Pid, 0); err != nil {
			t.Errorf("%v: %v", cmd.Env, err)
		}
		_ = cmd.Process.Kill() // its end is waited for above
	}
}

// A process that merely has the recorded number is left alone.
func TestEndStaleSparesStrangers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stranger := sleeper(t, "echo; exec sleep 600")
	if err := writePid(dir, "old", stranger.Process.Pid); err != nil {
		t.Fatal(err)
	}
	id, err := readIdentity(dir, "old")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*identity){
		"other start": func(i *identity) { i.Start-- },
		"other boot":  func(i *identity) { i.BootID = "another" },
	} {
		other := id
		change(&other)
		body := `{"pid":` + strconv.Itoa(other.Pid) + `,"start_ticks":` + strconv.FormatUint(other.Start, 10) + `,"boot_id":"` + other.BootID + `"}`
		if err := os.WriteFile(filepath.Join(dir, "old.json"), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := EndStale(t.Context(), dir, "old", Signalling{{syscall.SIGKILL, time.Second}})
		if err != nil || found {
			t.Errorf("%s: found %v, %v", name, found, err)
		}
		if err := syscall.Kill(stranger.Process.Pid, 0); err != nil {
			t.Fatalf("%s: the stranger is gone: %v", name, err)
		}
	}
	if found, err := EndStale(t.Context(), dir, "never", nil); found || err != nil {
		t.Errorf("no record: found %v, %v", found, err)
	}
}
