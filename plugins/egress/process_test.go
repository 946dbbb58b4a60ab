package egress_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/plugins/egress"
)

func TestProcess(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	b := enter(t, w, egress.Policy{Open: true})
	pid := gatewayOf(t, b.dir)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t1900000001\t1900000001\t1900000001\t1900000001\n", "Gid:\t1900000001", "Groups:\t \n", "CapEff:\t0000000000000000\n",
		"CapPrm:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	if root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid)); err != nil || !strings.HasPrefix(root, b.dir) {
		t.Errorf("root %q, %v", root, err)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", pid))
	if err != nil || len(tasks) < 2 {
		t.Fatal(tasks, err)
	}
	inside, err := os.Readlink(b.ns)
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil && ns == inside {
			t.Errorf("%s is in the sandbox's namespace", task)
		}
	}
	if err := egress.Stop(t.Context(), b.dir); err != nil {
		t.Fatal(err)
	}
	// It may be reaped at any moment, also between two looks: one that is not there is dead.
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("it lives: %s", stat)
	}
	if !egress.Ready(b.dir) {
		t.Error("what it was is forgotten")
	}

	other := enter(t, w, egress.Policy{Open: true})
	pid = gatewayOf(t, other.dir)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Kill(other.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if n == 1 {
			break
		}
		if !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			t.Fatalf("the gateway outlives the sandbox's supervisor: %d, %v", n, err)
		}
	}
}

func TestCountersOfARogue(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	victim := exec.Command("sleep", "300")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- victim.Wait() }()
	t.Cleanup(func() { _ = victim.Process.Kill() })
	for what, spoil := range map[string]func(f *os.File) error{
		"every word a pid": func(f *os.File) error {
			for word := range int64(8) {
				if err := binary.Write(io.NewOffsetWriter(f, 8*word), binary.LittleEndian, uint64(victim.Process.Pid)); err != nil { //nolint:gosec // positive
					return err
				}
			}
			return nil
		},
		"cut": func(f *os.File) error { return f.Truncate(1) },
	} {
		b := enter(t, w, egress.Policy{Open: true})
		f, err := os.OpenFile(filepath.Join(b.dir, "network"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := spoil(f); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := egress.Stop(ctx, b.dir); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("another process was killed: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestDriverDiesAtStart(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	b := &box{t: t, world: w, dir: t.TempDir()}
	b.sleep()
	open := func(f *os.File, err error) *os.File {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	config, err := json.Marshal(egress.Config{Policy: egress.Policy{Open: true}, Resolvers: []string{testnet.DNS + ":53"}, UID: 1900000001, Root: b.dir})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.dir, "config")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	counters := open(os.Create(filepath.Join(b.dir, "network")))
	if err := errors.Join(counters.Truncate(egress.CountersSize), unix.Flock(int(counters.Fd()), unix.LOCK_EX)); err != nil {
		t.Fatal(err)
	}
	peer, err := unix.PidfdOpen(b.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, ready, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close() // nobody hears it
	cmd := exec.Command(gateway)
	cmd.ExtraFiles = []*os.File{open(os.Open(file)), open(os.Open(b.ns)), counters, open(os.NewFile(uintptr(peer), "peer"), nil), open(ready, nil)}
	if _, err := testnet.Within(t, w.Host(), func() (struct{}, error) { return struct{}{}, cmd.Start() }); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	var end error
	go func() {
		end = cmd.Wait()
		close(gone)
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	over := func() bool {
		select {
		case <-gone:
			return true
		default:
			return false
		}
	}
	eventually(t, "it serves or ends", func() bool { return over() || egress.Ready(b.dir) })
	select {
	case <-gone:
		if egress.Ready(b.dir) {
			t.Errorf("it is ready and has ended: %v", end)
		}
	case <-time.After(200 * time.Millisecond):
	}
}

func gatewayOf(t *testing.T, dir string) int {
	t.Helper()
	pid, err := egress.PIDOf(dir)
	if err != nil || pid < 2 {
		t.Fatal(pid, err)
	}
	return pid
}
