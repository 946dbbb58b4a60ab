package local

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func supervisorPID(t *testing.T, b *box) string {
	t.Helper()
	dir, err := New().Folder(b.h)
	if err != nil {
		t.Fatal(err)
	}
	life, err := supervisor.Look(dir)
	if err != nil || !life.Alive || !life.Complete {
		t.Fatalf("the supervisor: %+v, %v", life, err)
	}
	return strconv.Itoa(int(life.State.SupervisorPID))
}

// A full disk costs output, never the truth about how the step ended: the place
// of its record is taken before it starts.
func TestVerdictOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	var c Config
	if err := json.Unmarshal(config(t), &c); err != nil {
		t.Fatal(err)
	}
	c.StateDir = filepath.Join(dir, "state")
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	d := New()
	if err := d.Configure(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	b := newBox(t, d)
	r := b.sh(t, "head -c 8M /dev/zero; exit 3")
	wantCause(t, r, step.CauseExit)
	if r.exit.Code != 3 || !r.exit.Truncated || r.exit.TotalBytes != 8<<20 || !strings.Contains(r.exit.Message, "could not be stored: No space left") {
		t.Errorf("exit %+v", r.exit)
	}
}

const escapee = `(setsid sh -c 'trap "" TERM HUP INT; (while :; do sleep 0.05; done) & while :; do sleep 0.05; done' </dev/null >/dev/null 2>&1 &) ; `

func TestMemoryHog(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	limit := func(s *driver.Spec) { s.Resources.MemoryMB = 64 }
	wantCause(t, newBox(t, d, limit).sh(t, "head -c 256M /dev/zero | tail | wc -c"), step.CauseOOM)
	r := newBox(t, d, limit).sh(t, "head -c 256M /dev/zero > /dev/shm/x; head -c 256M /dev/zero > /tmp/x; head -c 128M /dev/zero | tail -c 127M | wc -c")
	wantCause(t, r, step.CauseOOM)
	r = newBox(t, d, limit).sh(t, "head -c 16M /dev/zero | tail | wc -c")
	wantCause(t, r, step.CauseExit)
	if r.exit.Usage.MemoryPeakBytes < 8<<20 || r.exit.Usage.MemoryPeakBytes > 64<<20 {
		t.Errorf("usage %+v", r.exit.Usage)
	}
}

func TestForkBomb(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d, func(s *driver.Spec) { s.Resources.Pids = 48 })
	s := command("/bin/sh", "-c", "b() { b | b & }; b; while :; do b; sleep 0.01; done")
	s.Timeout, s.Grace = 3*time.Second, 100*time.Millisecond
	r := b.exec(t, s)
	if r.exit.Cause != step.CausePids && r.exit.Cause != step.CauseTimeout {
		t.Errorf("exit %+v", r.exit)
	}
	eventually(t, "only PID 1 is left", func() bool { return len(b.processes(t)) == 1 })
	r = b.sh(t, "echo fine")
	if r.out != "fine\n" {
		t.Errorf("after the bomb: %+v", r)
	}
	r = newBox(t, d, func(s *driver.Spec) { s.Resources.Pids = 16 }).sh(t, "set -e; for i in $(seq 50); do sleep 100 & done; wait")
	wantCause(t, r, step.CausePids)
}

// Whatever leaves its session and its parent dies with the exec, at its end
// and at its timeout.
func TestTreeDies(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	r := b.sh(t, escapee+"exit 5")
	if r.exit.Cause != step.CauseExit || r.exit.Code != 5 {
		t.Errorf("exit %+v", r.exit)
	}
	if left := b.processes(t); len(left) != 1 {
		t.Errorf("after the end %d processes are left", len(left))
	}
	s := command("/bin/sh", "-c", escapee+"sleep 1000")
	s.Timeout, s.Grace = 300*time.Millisecond, 100*time.Millisecond
	wantCause(t, b.exec(t, s), step.CauseTimeout)
	if left := b.processes(t); len(left) != 1 {
		t.Errorf("after the timeout %d processes are left", len(left))
	}
}

// A stopped tree is killed like any other.
func TestStoppedTreeDies(t *testing.T) {
	t.Parallel()
	b := newBox(t, newDriver(t))
	s := command("/bin/sh", "-c", "kill -STOP $$; sleep 1000")
	s.Timeout, s.Grace = 300*time.Millisecond, 100*time.Millisecond
	wantCause(t, b.exec(t, s), step.CauseTimeout)
}

// With several execs in a sandbox each has its own tree.
func TestTreesAreApart(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	var first ran
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	running, done := command("/bin/sh", "-c", "echo up; sleep 1000"), make(chan error, 1)
	go func() { done <- d.Exec(ctx, b.h, running, first.sink) }()
	eventually(t, "the first exec runs", func() bool {
		st, err := d.Recover(ctx, b.h)
		return err == nil && len(st.Execs) == 1 && st.Execs[0].OutputBytes == 3
	})
	r := b.sh(t, escapee+"sleep 0.2; exit 3") // behind a monitor
	if r.exit.Code != 3 || r.exit.Cause != step.CauseExit {
		t.Errorf("the second exec: %+v", r.exit)
	}
	eventually(t, "the second's tree is gone", func() bool { return len(b.processes(t)) == 3 }) // PID 1, sh, sleep
	s := command("/bin/sh", "-c", escapee+"sleep 1000")
	s.Timeout, s.Grace = 300*time.Millisecond, 50*time.Millisecond
	wantCause(t, b.exec(t, s), step.CauseTimeout)
	eventually(t, "PID 1 and the first exec's two are left", func() bool { return len(b.processes(t)) == 3 })
	if err := d.Stop(ctx, b.h, time.Second, step.CauseCancelled); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || first.exit.Cause != step.CauseCancelled || first.out != "up\n" {
		t.Errorf("the first exec: %v, %+v", err, first)
	}
}

// The lease ends the sandbox although its driver is gone.
func TestLeaseWithoutDriver(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d, func(s *driver.Spec) { s.Until = driver.After(2 * time.Second) })
	started := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := command("/bin/sh", "-c", "trap '' TERM; echo up; "+escapee+"while :; do sleep 1; done")
	go func() {
		once := sync.OnceFunc(func() { close(started) })
		done <- d.Exec(ctx, b.h, s, func(driver.ExecEvent) error { once(); return nil })
	}()
	<-started
	cancel()
	<-done
	d.Close() // the spawner dies with it
	eventually(t, "nothing of the sandbox runs", func() bool { return len(b.processes(t)) == 0 })
	b.d = newConfigured(t, d)
	var r ran
	if err := b.d.Attach(context.Background(), b.h, s.ID, 0, r.sink); err != nil {
		t.Fatal(err)
	}
	wantCause(t, r, step.CauseLost)
	if r.out != "up\n" {
		t.Errorf("output %q", r.out)
	}
	if err := b.d.Extend(context.Background(), b.h, driver.After(time.Hour)); !step.Is(err, step.KindConflict) {
		t.Errorf("extending what has ended: %v", err)
	}
}

// newConfigured is the driver that a restarted process would be.
func newConfigured(t *testing.T, old *Driver) *Driver {
	t.Helper()
	d := New()
	data := fmt.Appendf(nil, `{"state_dir":%q,"supervisor":%q}`, old.StateDir(), supervisorPath)
	if err := d.Configure(context.Background(), data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// A supervisor that is killed takes its sandbox with it; what it had stored
// can be read, and its execs are lost.
func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	var r ran
	done := make(chan error, 1)
	ready := make(chan struct{})
	s := command("/bin/sh", "-c", "echo up; "+escapee+"sleep 1000")
	go func() {
		once := sync.OnceFunc(func() { close(ready) })
		done <- d.Exec(context.Background(), b.h, s, func(e driver.ExecEvent) error { defer once(); return r.sink(e) })
	}()
	<-ready
	pid, _ := strconv.Atoi(supervisorPID(t, b))
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantCause(t, r, step.CauseLost)
	if r.out != "up\n" {
		t.Errorf("output %q", r.out)
	}
	eventually(t, "nothing of the sandbox runs", func() bool { return len(b.processes(t)) == 0 })
	st, err := d.Recover(context.Background(), b.h)
	if err != nil || st.Phase != driver.PhaseExited || len(st.Execs) != 1 || st.Execs[0].Exit == nil || *st.Execs[0].Exit != r.exit {
		t.Errorf("recover: %+v, %v", st, err)
	}
	err = d.Exec(context.Background(), b.h, command("true"), r.sink)
	if !step.Is(err, step.KindConflict) {
		t.Errorf("exec in a dead sandbox: %v", err)
	}
}

// A supervisor that is stopped cannot hold up Destroy for ever.
func TestSupervisorStopped(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	pid, _ := strconv.Atoi(supervisorPID(t, b))
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := d.Destroy(ctx, b.h); err != nil {
		t.Fatal(err)
	}
	if left := b.processes(t); len(left) != 0 {
		t.Errorf("%d processes are left", len(left))
	}
}

// PID 1's death is the end of everything in the sandbox, and said so.
func TestInitKilled(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	s := command("/bin/sh", "-c", "echo up; sleep 1000")
	var r ran
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		once := sync.OnceFunc(func() { close(ready) })
		done <- d.Exec(context.Background(), b.h, s, func(e driver.ExecEvent) error { defer once(); return r.sink(e) })
	}()
	<-ready
	dir, _ := New().Folder(b.h)
	life, err := supervisor.Look(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(life.State.InitPID), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantCause(t, r, step.CauseLost)
}

// Deep trees and odd names do not keep a sandbox from being removed.
func TestHostileWorkspaceIsRemoved(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	r := b.exec(t, command("perl", "-e", `
		for (1..10000) { mkdir "d" x 20 or die "mkdir $_: $!"; chdir "d" x 20 or die "chdir $_: $!"; }
		chdir "/workspace" or die;
		mkdir "names"; chdir "names";
		for my $n ("a\nb", "\xff\xfe", "x" x 255, "-rf", "..gone.1", "..gone.2") { mkdir $n or die "$n: $!"; open(my $f, ">", "$n/f") or die; }
		symlink("/etc", "link"); symlink("/workspace", "loop");
		mkdir "locked"; mkdir "locked/in"; chmod 0, "locked/in"; chmod 0, "locked";
		system("mkfifo", "fifo");
		print "made\n";`))
	if r.out != "made\n" {
		t.Fatalf("%+v", r)
	}
	if err := d.Destroy(t.Context(), b.h); err != nil {
		t.Fatal(err)
	}
	entries, err := sandboxFolders(d)
	if err != nil || len(entries) != 0 {
		t.Errorf("the state folder still holds %v (%v)", entries, err)
	}
}

// Fifty sandboxes at once, and nothing left of them.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	var wg sync.WaitGroup
	specs := make([]driver.Spec, 50)
	for i := range specs {
		specs[i] = driver.Spec{ID: fmt.Sprintf("many-%d", i), Tags: driver.Tags{Owner: "test", ID: "x"}}
		newHost().Fill(t, &specs[i])
	}
	for i := range specs {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			h, err := d.Create(ctx, specs[i])
			if err != nil {
				t.Errorf("create: %v", err)
				return
			}
			var r ran
			err = d.Exec(ctx, h, command("/bin/sh", "-c", fmt.Sprintf("echo %d; id -u", i)), r.sink)
			if err != nil || r.out != fmt.Sprintf("%d\n1000\n", i) {
				t.Errorf("exec %d: %v, %+v", i, err, r)
			}
			if err := d.Destroy(ctx, h); err != nil {
				t.Errorf("destroy: %v", err)
			}
		})
	}
	wg.Wait()
	entries, err := sandboxFolders(d)
	if err != nil || len(entries) != 0 {
		t.Errorf("the state folder still holds %d entries (%v)", len(entries), err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), d.StateDir()) {
		t.Errorf("mounts are left on the host (%v):\n%s", err, mounts)
	}
}
