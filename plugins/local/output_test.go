package local

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/testhost"
	"github.com/nofx-run/nofx/sdk/driver"
)

// The step's descriptors can be opened by their names, and stdin read again.
func TestStandardStreams(t *testing.T) {
	t.Parallel()
	b := newBox(t, newDriver(t))
	for _, user := range []string{"", "root"} {
		s := command("/bin/sh", "-c", "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin; (echo x >/dev/stdin) 2>/dev/null || echo sealed; tty || true")
		s.Stdin, s.User = []byte("in\n"), user
		if r := b.exec(t, s); r.out != "out\nin\nsealed\nnot a tty\n" || r.err != "err\n" {
			t.Errorf("user %q: stdout %q, stderr %q", user, r.out, r.err)
		}
	}
}

// A step that writes byte by byte does not cost its host a frame a byte.
func TestSmallWritesShareFrames(t *testing.T) {
	t.Parallel()
	b := newBox(t, newDriver(t))
	const n = 20000
	s := command("perl", "-e", "syswrite(STDOUT, 'x') for 1..20000")
	r := b.exec(t, s)
	if len(r.out) != n || r.exit.TotalBytes != n {
		t.Fatalf("%d bytes came, exit %+v", len(r.out), r.exit)
	}
	dir, err := New().Folder(b.h)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dir, "exec-"+s.ID+".out"))
	if err != nil || st.Size() > 2*n {
		t.Errorf("the file has %d bytes (%v)", st.Size(), err)
	}
}

// Streams that alternate keep their order and come from any offset.
func TestInterleavedOutput(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	s := command("perl", "-e", "$|=1; for (1..300) { syswrite(STDOUT, 'o' x 7); select(undef,undef,undef,0.001); syswrite(STDERR, 'e' x 5); select(undef,undef,undef,0.001) }")
	r := b.exec(t, s)
	if r.out != strings.Repeat("o", 2100) || r.err != strings.Repeat("e", 1500) {
		t.Errorf("%d and %d bytes", len(r.out), len(r.err))
	}
	whole := events(t, b, s.ID, 0)
	for _, off := range []int64{1, 6, 7, 8, 12, 1799, 3599, 3600} {
		if got := events(t, b, s.ID, off); got != whole[off:] {
			t.Errorf("from %d: %d bytes, want %d", off, len(got), len(whole)-int(off))
		}
	}
}

// events gives what Attach delivers from an offset, both streams in order.
func events(t *testing.T, b *box, id string, offset int64) string {
	t.Helper()
	var all strings.Builder
	err := b.d.Attach(t.Context(), b.h, id, offset, func(e driver.ExecEvent) error {
		if e.Exit == nil && e.Offset != offset+int64(all.Len()) {
			t.Errorf("an event at %d, want %d", e.Offset, offset+int64(all.Len()))
		}
		all.Write(e.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// On cgroup v2 both processes are born in their groups. The unified hierarchy
// of a v1 host has no controllers, and will do.
func TestUnifiedHierarchy(t *testing.T) {
	t.Parallel()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
		root = "/sys/fs/cgroup/unified"
	}
	d := newDriver(t)
	name := "nofxtest-" + random()
	s := driver.Spec{ID: "v2", Tags: driver.Tags{Owner: "test", ID: "x"}, Host: &driver.HostSpec{UIDBase: 1900900000, UIDCount: 2}}
	s.Host.Cgroup.V2, s.Host.Supervisor.V2 = filepath.Join(root, name+"-box"), filepath.Join(root, name+"-sup")
	testhost.Mkdir(t, s.Host.Cgroup.V2)
	testhost.Mkdir(t, s.Host.Supervisor.V2)
	b := openBox(t, d, s)
	if r := b.sh(t, "grep ^0: /proc/self/cgroup"); r.out != "0::/\n" {
		t.Errorf("the step's group: %q", r.out)
	}
	if n := len(b.processes(t)); n != 1 {
		t.Errorf("%d processes are in the sandbox's group, want PID 1", n)
	}
	group, err := os.ReadFile("/proc/" + supervisorPID(t, b) + "/cgroup")
	if err != nil || !strings.Contains(string(group), name+"-sup\n") {
		t.Errorf("the supervisor's group: %s (%v)", group, err)
	}
}

// A connection that says nonsense, or half a sentence, disturbs nobody.
func TestControlSocketNonsense(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	dir, err := New().Folder(b.h)
	if err != nil {
		t.Fatal(err)
	}
	for _, nonsense := range []string{"\x00\x00\x00\x00", "\xff\xff\xff\xff", "\x05\x00\x00\x00\x01ab", "\x01\x00\x00\x00\x63", "\x09\x00\x00\x00\x01\xff\xff\xff\xffabcd", "\x06\x00\x00\x00\x02\x01\x00\x00\x00x", "\x01\x00\x00\x00\x04"} {
		c := dialRaw(t, dir)
		if _, err := c.Write([]byte(nonsense)); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if r := b.sh(t, "echo fine"); r.out != "fine\n" {
		t.Errorf("%+v", r)
	}
}

// dialRaw connects to a control socket, whose path may be too long for an
// address.
func dialRaw(t *testing.T, dir string) net.Conn {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/ctl.sock", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
