package up

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
)

func dialTest(e Endpoint) (Probe, error) {
	return client.New(client.Options{BaseURL: e.URL, Key: e.Key, CAFile: e.CAFile})
}

// binaries makes a folder in which this test's binary has the names of the
// programs that `nofx up` starts.
func binaries(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"nofx-api", "nofxd"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"nofx-driver-local", "nofx-supervisor", "nofx-egress"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/true\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newSystem(t *testing.T, dir, bin string) *System {
	t.Helper()
	s, err := systemFor(dir, bin, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func systemFor(dir, bin string, progress io.Writer) (*System, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return New(Config{
		Dir: dir, Listen: "127.0.0.1:0", BinDir: bin, Self: self,
		Dial: dialTest, Progress: progress, Log: slog.New(slog.DiscardHandler),
	})
}

// runUp is `nofx up` as a process of its own: it says "ready" and runs until
// it is told to end.
func runUp(dir, bin string) int {
	s, err := systemFor(dir, bin, os.Stderr)
	if err == nil {
		err = s.Run(context.Background(), func(context.Context, Endpoint) error {
			fmt.Println("ready")
			select {}
		})
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func pid(t *testing.T, dir, name string) int {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(dir, "run", name+".pid"))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(body)))
	if err != nil || n <= 1 {
		t.Fatalf("%s.pid: %q", name, body)
	}
	return n
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no pid to kill: %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestUpRunsSupervisesAndEnds(t *testing.T) {
	t.Parallel()
	dir, bin := filepath.Join(t.TempDir(), "data"), binaries(t)
	names := []string{"postgres", "nofx-api", "nofxd"}
	alive := filepath.Join(dir, "worker", "alive")
	var pids []int
	var first Endpoint
	err := newSystem(t, dir, bin).Run(t.Context(), func(ctx context.Context, e Endpoint) error {
		first = e
		probe, err := dialTest(e)
		if err != nil {
			return err
		}
		if err := healthy(ctx, probe); err != nil {
			return err
		}
		onDisk, err := ReadClientEnv(filepath.Join(dir, ClientEnv))
		if err != nil {
			return err
		}
		if diff := cmp.Diff(e, onDisk); diff != "" {
			t.Error(diff)
		}
		for name, want := range map[string]os.FileMode{"client.env": 0o600, "worker.token": 0o600, "nofxd.yaml": 0o600, "tls/ca-key.pem": 0o600, "pg": 0o700, "blobs": 0o700} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			if info.Mode().Perm() != want {
				t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
			}
		}

		// A second one on the folder is refused and disturbs nothing.
		if err := newSystem(t, dir, bin).Run(ctx, Serve); !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), "another nofx up") {
			t.Errorf("second up: %v", err)
		}

		// Whatever dies comes back, the API at the same address.
		for _, name := range names {
			old := pid(t, dir, name)
			if name == "nofxd" {
				if err := os.Remove(alive); err != nil {
					return err
				}
			}
			kill(t, old)
			eventually(t, name+" comes back", func() bool { p := pid(t, dir, name); return p != 0 && p != old })
		}
		eventually(t, "nofxd has begun", func() bool { _, err := os.Stat(alive); return err == nil })
		eventually(t, "healthy again", func() bool { return healthy(ctx, probe) == nil })
		for _, name := range names {
			pids = append(pids, pid(t, dir, name))
		}
		return errors.New("the work's own error")
	})
	if err == nil || err.Error() != "the work's own error" {
		t.Fatalf("got %v", err)
	}
	for i, p := range pids {
		if !gone(p) {
			t.Errorf("%s still lives", names[i])
		}
	}
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "migrate\nkeyset\nkey operator\nkey worker\ndaemon ends\npurge\napi ends\n"; string(order) != want {
		t.Errorf("order: got %q, want %q", order, want)
	}
	left, err := filepath.Glob(filepath.Join(dir, "run", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in run/: %v %v", left, err)
	}

	// The next start keeps the keys and the database.
	err = newSystem(t, dir, bin).Run(t.Context(), func(_ context.Context, e Endpoint) error {
		if e.Key != first.Key || e.CAFile != first.CAFile {
			t.Errorf("the second start has %+v, the first had %+v", e, first)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	order, err = os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		t.Fatal(err)
	}
	if n, sets := strings.Count(string(order), "key "), strings.Count(string(order), "keyset"); n != 2 || sets != 1 {
		t.Errorf("%d keys and %d keysets were made, want 2 and 1", n, sets)
	}
}

func healthy(ctx context.Context, probe Probe) error {
	_, err := probe.Health(ctx)
	return err
}

// Its sudden death leaves the children; the next one ends them, and nothing
// else, and works.
func TestUpAfterASuddenDeath(t *testing.T) {
	t.Parallel()
	dir, bin := filepath.Join(t.TempDir(), "data"), binaries(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "run-up", dir, bin)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, 6)
	if _, err := io.ReadFull(out, ready); err != nil || string(ready) != "ready\n" {
		_ = cmd.Process.Kill()
		t.Fatalf("%q, %v, %v", ready, err, cmd.Wait())
	}
	old := map[string]int{}
	for _, name := range []string{"postgres", "nofx-api", "nofxd"} {
		old[name] = pid(t, dir, name)
	}
	kill(t, cmd.Process.Pid)
	_ = cmd.Wait()
	for name, p := range old {
		if gone(p) {
			t.Errorf("%s went with its parent", name)
		}
	}

	var progress bytes.Buffer
	s, err := systemFor(dir, bin, &progress)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context(), func(context.Context, Endpoint) error {
		for name, p := range old {
			eventually(t, name+" of the dead one ends", func() bool { return ended(p) })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range old {
		if !strings.Contains(progress.String(), "ended "+name+" of an earlier run") {
			t.Errorf("%s: not told in %q", name, progress.String())
		}
	}
}

// ended is also true of a zombie whose new parent has not buried it yet.
func ended(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

func TestUpTellsWhyAChildDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "broken-api"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := newSystem(t, dir, binaries(t)).Run(t.Context(), Serve)
	if err == nil || !strings.Contains(err.Error(), "cannot serve: it is broken") {
		t.Errorf("got %v", err)
	}
	for _, name := range []string{"postgres", "nofx-api"} {
		if p := pid(t, dir, name); p != 0 {
			t.Errorf("%s: %d is still on record", name, p)
		}
	}
}

// An address that cannot be listened on is found before anything starts.
func TestUpRefusesAddress(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"garbage", "127.0.0.1:port", "127.0.0.1:99999"} {
		dir := t.TempDir()
		_, err := New(Config{Dir: filepath.Join(dir, "data"), Listen: listen})
		if !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "--listen "+listen) {
			t.Errorf("%s: %v", listen, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: %v %v", listen, left, err)
		}
	}
}

// An interrupt during the start ends what has started.
func TestUpInterruptedAtItsStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("interrupted by the test")
	s, err := systemFor(dir, binaries(t), writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("postgres is up")) {
			cancel(stop)
		}
		return len(p), nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(ctx, Serve); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if p := pid(t, dir, "postgres"); p != 0 {
		t.Errorf("postgres %d is still on record", p)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Below a deep folder the socket's own path would not fit, and one with a comma
// would be two.
func TestUpInADeepFolder(t *testing.T) {
	t.Parallel()
	for name, folder := range map[string]string{"deep": strings.Repeat("deep/", 30), "comma": "a, b"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upByALink(t, filepath.Join(t.TempDir(), folder, "data"))
		})
	}
}

func upByALink(t *testing.T, dir string) {
	var link string
	s := newSystem(t, dir, binaries(t))
	err := s.Run(t.Context(), func(context.Context, Endpoint) error {
		link = s.socketDir
		if !strings.HasPrefix(link, "/run/nofx-") {
			t.Errorf("socket folder %s", link)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s stays: %v", link, err)
	}
}

// An API that listens on all addresses is told by one that its certificate is
// for, and keeps to all when it is started again.
func TestUpOnAllAddresses(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"0.0.0.0:0", ":0"} {
		dir := filepath.Join(t.TempDir(), "data")
		s := newSystem(t, dir, binaries(t))
		s.cfg.Listen = listen
		err := s.Run(t.Context(), func(ctx context.Context, e Endpoint) error {
			if !strings.HasPrefix(e.URL, "https://127.0.0.1:") {
				t.Errorf("%s: the endpoint is %s", listen, e.URL)
			}
			probe, err := dialTest(e)
			if err != nil {
				return err
			}
			old := pid(t, dir, "nofx-api")
			kill(t, old)
			eventually(t, "the API comes back", func() bool { p := pid(t, dir, "nofx-api"); return p != 0 && p != old && healthy(ctx, probe) == nil })
			env, err := os.ReadFile("/proc/" + strconv.Itoa(pid(t, dir, "nofx-api")) + "/environ")
			if err != nil || bytes.Contains(env, []byte("NOFX_LISTEN=127.")) {
				t.Errorf("%s: %q %v", listen, env, err)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", listen, err)
		}
	}
}

func TestInstallationsAreDisjoint(t *testing.T) {
	t.Parallel()
	seen := map[uint32]bool{}
	for range 40 {
		dir := t.TempDir()
		inst, hold, err := claim(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer hold.Close()
		if seen[inst.UIDBase] || inst.UIDBase < uidFirst || uint64(inst.UIDBase)+uidCount > 1<<31 {
			t.Fatalf("uid base %d", inst.UIDBase)
		}
		seen[inst.UIDBase] = true
		if _, _, err := claim(dir); !step.Is(err, step.KindConflict) {
			t.Fatalf("the same range twice: %v", err)
		}
	}
}

func TestClientEnvIsAShellFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := Endpoint{URL: "https://127.0.0.1:7443", Key: "nofx_u_abc", CAFile: "/home/a b/it's/$(id)/ca.pem"}
	if err := writeClientEnv(dir, want); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, ClientEnv)
	got, err := ReadClientEnv(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	out, err := exec.Command("sh", "-c", `. "$1"; printf %s "$NOFX_CA_FILE"`, "sh", path).Output()
	if err != nil || string(out) != want.CAFile {
		t.Errorf("the shell reads %q, %v", out, err)
	}
}

// The folder of a root file system gets to the driver local, and no other.
func TestRootFS(t *testing.T) {
	t.Parallel()
	root, err := rootFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &System{cfg: Config{Dir: t.TempDir(), RootFS: root, Docker: "/run/docker.sock"}}
	if all := s.drivers(); all["local"]["rootfs"] != root || all["container"]["rootfs"] != nil {
		t.Errorf("drivers: %v", all)
	}
	s.cfg.RootFS = ""
	if all := s.drivers(); len(all["local"]) != 0 {
		t.Errorf("drivers without: %v", all)
	}
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, filepath.Join(root, "gone")} {
		if _, err := rootFolder(bad); !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
