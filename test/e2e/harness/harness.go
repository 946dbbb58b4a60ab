// Package harness boots the real system for tests: the binaries that
// `make build` put into bin/, as `nofx up` runs them, on a folder of the
// test's own.
//
// A System is stopped when its test ends, and the test fails if a process, a
// mount or a cgroup of it is left on the host then.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/client"
)

const (
	bootTime = 90 * time.Second
	stopTime = 120 * time.Second
	patience = 60 * time.Second // of everything that has no deadline of its own
)

// System is a running `nofx up`.
type System struct {
	t    testing.TB
	Dir  string // its data folder
	Bin  string // the folder of the binaries
	args []string
	env  []string
	net  string // network namespace of everything in it, "" = ours
	cmd  *exec.Cmd
	log  *buffer
	done chan error
	api  *client.Client
}

// Start boots a system and waits until it serves with a live worker. env are
// further variables for `nofx up`, like NOFX_LEASE=5s.
func Start(t testing.TB, env ...string) *System {
	t.Helper()
	return StartWith(t, []string{"--docker", "off"}, env...)
}

// StartWith is Start with further arguments for `nofx up`.
func StartWith(t testing.TB, args []string, env ...string) *System {
	t.Helper()
	return StartIn(t, "", args, env...)
}

// StartIn is StartWith in the network namespace of that path, from where it
// cannot be reached but with Nofx.
func StartIn(t testing.TB, net string, args []string, env ...string) *System {
	t.Helper()
	return start(t, &System{Bin: binDir(t), args: args, env: env, net: net})
}

// StartFrom is Start with the binaries of another folder.
func StartFrom(t testing.TB, bin string, env ...string) *System {
	t.Helper()
	return start(t, &System{Bin: bin, args: []string{"--docker", "off"}, env: env})
}

func start(t testing.TB, s *System) *System {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes sandboxes: run it as root")
	}
	s.t, s.Dir = t, filepath.Join(t.TempDir(), "data")
	// nofx up begins with the usual meaning of a hangup, also below nohup, which
	// has it ignored.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangup) })
	s.Up()
	t.Cleanup(func() {
		if t.Failed() {
			s.dumpLogs()
		}
		s.Stop()
		s.checkNothingLeft()
	})
	return s
}

// Up starts `nofx up` on the folder; Start has done so once.
func (s *System) Up() {
	s.t.Helper()
	s.log, s.done = &buffer{}, make(chan error, 1)
	s.cmd = s.command(context.Background(), append([]string{"up", "--data", s.Dir, "--listen", "127.0.0.1:0", "--json"}, s.args...)...)
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ready := make(chan struct{})
	cmd, done := s.cmd, s.done
	go func() {
		// It prints how to reach it when it is ready, and nothing else.
		if n, _ := out.Read(make([]byte, 1)); n == 1 {
			close(ready)
		}
		_, _ = io.Copy(io.Discard, out)
		done <- cmd.Wait()
	}()
	select {
	case <-ready:
	case err := <-s.done:
		s.done <- err
		s.t.Fatalf("nofx up ended: %v\n%s", err, s.log)
	case <-time.After(bootTime):
		s.t.Fatalf("nofx up is not ready after %v", bootTime)
	}
	env := s.ClientEnv()
	s.api, err = client.New(client.Options{BaseURL: env["NOFX_API_URL"], Key: env["NOFX_API_KEY"], CAFile: env["NOFX_CA_FILE"]})
	if err != nil {
		s.t.Fatal(err)
	}
}

// Stop drains the system and waits for its end. A second call does nothing.
func (s *System) Stop() {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	s.api.Close()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	err := s.wait(stopTime)
	if err != nil {
		s.t.Errorf("nofx up: %v\n%s", err, s.log)
	}
}

// KillUp ends `nofx up` itself by SIGKILL. Its children live on until Up.
func (s *System) KillUp() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	_ = s.wait(stopTime)
}

func (s *System) wait(limit time.Duration) error {
	cmd := s.cmd
	s.cmd = nil
	select {
	case err := <-s.done:
		return err
	case <-time.After(limit):
		_ = cmd.Process.Kill()
		return errors.Join(fmt.Errorf("not ended after %v", limit), <-s.done)
	}
}

// API is a client with the development key.
func (s *System) API() *client.Client { return s.api }

// ClientEnv is the content of client.env.
func (s *System) ClientEnv() map[string]string {
	s.t.Helper()
	body, err := os.ReadFile(filepath.Join(s.Dir, "client.env"))
	if err != nil {
		s.t.Fatal(err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(body)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			env[k] = strings.Trim(v, "'")
		}
	}
	return env
}

// command is a call of the CLI where the system is.
func (s *System) command(ctx context.Context, args ...string) *exec.Cmd {
	nofx := filepath.Join(s.Bin, "nofx")
	if s.net == "" {
		return exec.CommandContext(ctx, nofx, args...)
	}
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + s.net, nofx}, args...)...)
}

// Result is what a command line did.
type Result struct {
	Code   int
	Stdout string
	Stderr string
}

// Nofx runs the CLI against the system, in dir ("" = a folder of its own).
func (s *System) Nofx(dir string, args ...string) Result {
	s.t.Helper()
	if dir == "" {
		dir = s.t.TempDir()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cmd := s.command(ctx, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	for k, v := range s.ClientEnv() {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("nofx %v: %v", args, err)
	}
	return Result{Code: cmd.ProcessState.ExitCode(), Stdout: out.String(), Stderr: errs.String()}
}

// Admin runs nofx-api as the owner of the database.
func (s *System) Admin(args ...string) error {
	s.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.Pid("nofx-api")))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(s.Bin, "nofx-api"), args...)
	cmd.Env = strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nofx-api %v: %w: %s", args, err, out)
	}
	return nil
}

// Pid is the id in DIR/run/NAME.pid, 0 when there is none.
func (s *System) Pid(name string) int {
	s.t.Helper()
	body, err := os.ReadFile(filepath.Join(s.Dir, "run", name+".pid"))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(body)))
	if err != nil || n <= 1 {
		s.t.Fatalf("%s.pid: %q", name, body)
	}
	return n
}

// Signal sends sig to the process called name.
func (s *System) Signal(name string, sig syscall.Signal) {
	s.t.Helper()
	pid := s.Pid(name)
	if pid == 0 {
		s.t.Fatalf("%s does not run", name)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		s.t.Fatalf("%s (pid %d): %v", name, pid, err)
	}
}

// Kill ends the process called name by SIGKILL and waits until another has
// taken its place.
func (s *System) Kill(name string) {
	s.t.Helper()
	s.Restart(name, syscall.SIGKILL)
}

// Restart is Kill with a signal of choice.
func (s *System) Restart(name string, sig syscall.Signal) {
	s.t.Helper()
	old := s.Pid(name)
	s.Signal(name, sig)
	s.Eventually(name+" comes back", func() bool { pid := s.Pid(name); return pid != 0 && pid != old })
}

// Eventually polls until ok is true and fails the test when it is not so in
// time.
func (s *System) Eventually(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			s.t.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

// binDir is bin/ of the module that the test runs in.
func binDir(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
	bin := filepath.Join(dir, "bin")
	for _, name := range []string{"nofx", "nofxd", "nofx-api", "nofx-driver-local", "nofx-supervisor", "nofx-egress"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Fatalf("%v: run make build first", err)
		}
	}
	return bin
}

// Hurry ends the system by two signals in a row.
func (s *System) Hurry(sig syscall.Signal) {
	s.t.Helper()
	s.api.Close()
	_ = s.cmd.Process.Signal(sig)
	s.Eventually("the first signal is seen", func() bool { return strings.Contains(s.log.String(), "stopping") })
	_ = s.cmd.Process.Signal(sig)
	if err := s.wait(stopTime); err != nil {
		s.t.Errorf("nofx up: %v\n%s", err, s.log)
	}
}

// Once runs `nofx up --once` with the plan and wants its exit code, and out
// on stdout. Nothing may be left on the host.
func Once(t testing.TB, plan string, code int, out string) {
	t.Helper()
	s := &System{t: t, log: &buffer{}}
	var stdout bytes.Buffer
	if got := s.once(plan, &stdout, s.log); got != code || !strings.Contains(stdout.String(), out) {
		t.Errorf("exit code %d, want %d; stdout %q, want %q in it", got, code, stdout.String(), out)
		s.dumpLogs()
	}
	s.checkNothingLeft()
}

// OnceUnread is Once for a reader that goes away before anything is written.
func OnceUnread(t testing.TB, plan string, code int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_ = r.Close()
	s := &System{t: t, log: &buffer{}}
	if got := s.once(plan, w, w); got != code {
		t.Errorf("exit code %d, want %d", got, code)
		s.dumpLogs()
	}
	s.checkNothingLeft()
}

// once runs `nofx up --once` and gives its exit code.
func (s *System) once(plan string, stdout, stderr io.Writer) int {
	t := s.t
	t.Helper()
	dir := t.TempDir()
	s.Dir, s.Bin = filepath.Join(dir, "data"), binDir(t)
	file := filepath.Join(dir, "plan.json")
	if err := os.WriteFile(file, []byte(plan), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), bootTime+stopTime+patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.Bin, "nofx"), "up", "--data", s.Dir, "--listen", "127.0.0.1:0", "--once", file)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTime
	cmd.Stdout, cmd.Stderr = stdout, stderr
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode()
}

// buffer is a bytes.Buffer that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
