package local

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// sharedWorkspace is a folder of the uid that a run's files have on disk.
func sharedWorkspace(t *testing.T, uid int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ws")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	return dir
}

func ownerOf(t *testing.T, path string) int {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(st.Sys().(*syscall.Stat_t).Uid)
}

// Two sandboxes with uids of their own share a workspace whose files belong to
// one uid on disk.
func TestSharedWorkspace(t *testing.T) {
	t.Parallel()
	const uid = 1800000123
	dir := sharedWorkspace(t, uid)
	d := newDriver(t)
	with := func(s *driver.Spec) { s.Host = &driver.HostSpec{Workspace: dir, WorkspaceUID: uid} }
	a, b := newBox(t, d, with), newBox(t, d, with)
	if r := a.sh(t, "umask 077; mkdir d; echo from a > d/f; cp /usr/bin/true d/x; chmod u+s,g+s d/x; stat -c %u d/f"); r.out != "1000\n" {
		t.Errorf("in the sandbox: %+v", r)
	}
	if got := ownerOf(t, filepath.Join(dir, "d/f")); got != uid {
		t.Errorf("on disk the file belongs to %d, want %d", got, uid)
	}
	if r := b.sh(t, "cat d/f; echo from b >> d/f; rm d/x"); r.out != "from a\n" || r.exit.Code != 0 {
		t.Errorf("the second sandbox: %+v", r)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "d/f")); err != nil || string(data) != "from a\nfrom b\n" {
		t.Errorf("the file holds %q (%v)", data, err)
	}
	for _, bx := range []*box{a, b} {
		if err := d.Destroy(t.Context(), bx.h); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "d/f")); err != nil {
		t.Errorf("destroy removed a workspace that is not its own: %v", err)
	}
}

// What is mounted below the workspace on the host later does not come into the
// sandbox, also on a host whose mounts are shared, as systemd makes them.
func TestWorkspaceIsPrivate(t *testing.T) {
	t.Parallel()
	const uid = 1800000125
	base := t.TempDir()
	mount := func(what, source, target, kind string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	mount("a mount of the test's own", base, base, "", unix.MS_BIND) // not a tmpfs: Linux 6.1 maps no uids on one
	t.Cleanup(func() {
		if err := unix.Unmount(base, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	mount("shared", "", base, "", unix.MS_SHARED)
	dir := filepath.Join(base, "workspace")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "later"), 0o755), os.Chown(dir, uid, uid)); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, newDriver(t), func(s *driver.Spec) { s.Host = &driver.HostSpec{Workspace: dir, WorkspaceUID: uid} })
	mount("later", "tmpfs", filepath.Join(dir, "later"), "tmpfs", 0)
	if err := os.WriteFile(filepath.Join(dir, "later", "secret"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := b.sh(t, "ls later; grep ' /workspace ' /proc/self/mountinfo | grep -c shared; echo here >mine"); r.out != "0\n" {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, "mine")); err != nil { // it is that workspace
		t.Error(err)
	}
}

// A workspace is resolved by the host, and its links lead nowhere outside.
func TestWorkspaceLinks(t *testing.T) {
	t.Parallel()
	const uid = 1800000124
	dir := sharedWorkspace(t, uid)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(secret, filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, newDriver(t), func(s *driver.Spec) { s.Host = &driver.HostSpec{Workspace: dir, WorkspaceUID: uid} })
	r := b.sh(t, "cat link; echo x > link; stat -c %u hard; echo y >> hard; chown 1000 hard")
	if strings.Contains(r.out, "secret") {
		t.Error("a link leads out of the sandbox")
	}
	if strings.Contains(r.out, "\n0\n") || strings.HasPrefix(r.out, "0\n") {
		t.Errorf("a file of the host's root is the sandbox's: %q", r.out)
	}
	if got := ownerOf(t, secret); got != 0 {
		t.Errorf("the owner became %d", got)
	}
}

func TestRefusedSpecs(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	good := driver.HostSpec{UIDBase: 1900000001, UIDCount: 2}
	for what, c := range map[string]struct {
		f    func(*driver.Spec)
		kind step.Kind
	}{
		"no host part":           {func(s *driver.Spec) { s.Host = nil }, step.KindInvalid},
		"one uid":                {func(s *driver.Spec) { s.Host.UIDCount = 1 }, step.KindInvalid},
		"root's uid":             {func(s *driver.Spec) { s.Host.UIDBase = 0 }, step.KindInvalid},
		"a workspace of root's":  {func(s *driver.Spec) { s.Host.Workspace = "/tmp" }, step.KindInvalid},
		"a relative workspace":   {func(s *driver.Spec) { s.Host.Workspace, s.Host.WorkspaceUID = "tmp", 5 }, step.KindInvalid},
		"a missing workspace":    {func(s *driver.Spec) { s.Host.Workspace, s.Host.WorkspaceUID = "/no/such/folder", 5 }, step.KindInternal},
		"a missing group":        {func(s *driver.Spec) { s.Host.Cgroup.V1 = map[string]string{"pids": "/sys/fs/cgroup/pids/no-such"} }, step.KindInternal},
		"a cap without a group":  {func(s *driver.Spec) { s.Resources.MemoryMB = 5 }, step.KindInvalid},
		"an odd network":         {func(s *driver.Spec) { s.Network = "some" }, step.KindInvalid},
		"nobody to call":         {func(s *driver.Spec) { s.Network = step.NetworkAllow }, step.KindInvalid},
		"an odd rule":            {func(s *driver.Spec) { s.Network, s.Egress.Allow = step.NetworkAllow, []string{"*"} }, step.KindInvalid},
		"gvisor":                 {func(s *driver.Spec) { s.Isolation = "gvisor" }, step.KindUnsupported},
		"an image":               {func(s *driver.Spec) { s.Image = "debian" }, step.KindUnsupported},
		"a disk cap":             {func(s *driver.Spec) { s.Resources.DiskMB = 5 }, step.KindInvalid},
		"a deadline in the past": {func(s *driver.Spec) { s.Until = 1 }, step.KindInvalid},
	} {
		host := good
		s := driver.Spec{ID: "refused", Tags: driver.Tags{Owner: "x", ID: "y"}, Host: &host}
		c.f(&s)
		_, err := d.Create(t.Context(), s)
		if !step.Is(err, c.kind) {
			t.Errorf("%s: %v (%s), want %s", what, err, step.KindOf(err), c.kind)
		}
		if entries, err := sandboxFolders(d); err != nil || len(entries) != 0 {
			t.Errorf("%s: left %v behind (%v)", what, entries, err)
		}
	}
}

func archive(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		h.Size = int64(len(h.PAXRecords["NOFX.data"]))
		data := h.PAXRecords["NOFX.data"]
		h.PAXRecords = nil
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func regular(name, data string, mode int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, PAXRecords: map[string]string{"NOFX.data": data}}
}

// What a step plants in the way of a transfer is replaced or refused, never
// followed, opened or waited for.
func TestTransfersMeetTraps(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	ctx := t.Context()
	if r := b.sh(t, `mkdir real; echo keep > real/victim; ln -s real/victim final; ln -s real folder; mkfifo fifo; ln -s /proc/self/mem mem; ln -s /dev/zero zero; mkdir wall; ln -s ../real wall/in`); r.exit.Code != 0 {
		t.Fatalf("%+v", r)
	}
	for name, want := range map[string]step.Kind{"final": "", "fifo": "", "folder/x": step.KindInvalid, "wall/in/x": step.KindInvalid, "real": step.KindInvalid} {
		if err := d.CopyIn(ctx, b.h, "/workspace", archive(t, regular(name, "new", 0o6755))); step.KindOf(err) != want {
			t.Errorf("copy in to %s: %v, want %q", name, err, want)
		}
	}
	if err := d.CopyIn(ctx, b.h, "/workspace/folder", archive(t, regular("x", "new", 0o644))); !step.Is(err, step.KindInvalid) {
		t.Errorf("copy in to a linked folder: %v", err)
	}
	if err := d.CopyIn(ctx, b.h, "/usr/bin", archive(t, regular("x", "new", 0o644))); !step.Is(err, step.KindForbidden) {
		t.Errorf("copy in to /usr/bin: %v", err)
	}
	if err := d.CopyIn(ctx, b.h, "/proc/1/root/tmp", archive(t, regular("x", "new", 0o644))); err == nil {
		t.Error("copy in through /proc/1/root went through")
	}
	r := b.sh(t, "cat real/victim; ls real; cat final fifo; stat -c '%a %u' final")
	if r.out != "keep\nvictim\nnewnew755 1000\n" {
		t.Errorf("after the copies: %q %q", r.out, r.err)
	}
	if r := b.sh(t, "mkfifo pipe; ln pipe pipe2"); r.exit.Code != 0 {
		t.Fatal(r)
	}
	for path, want := range map[string]step.Kind{
		"/workspace/pipe": step.KindInvalid, "/dev/zero": step.KindInvalid, "/proc/self/mem": step.KindForbidden, "/proc/self/status": step.KindInvalid,
		"/proc/1/environ": step.KindForbidden, "/proc/1/root/etc/passwd": "any", "/etc/shadow": step.KindNotFound,
		"/workspace/mem": "", "/workspace/folder/victim": "",
	} {
		var buf bytes.Buffer
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := d.CopyOut(short, b.h, path, 1<<20, &buf)
		cancel()
		if got := step.KindOf(err); got != want && (want != "any" || err == nil) {
			t.Errorf("copy out of %s: %v (%s), want %q", path, err, got, want)
		}
	}
}

// A step can neither signal, trace nor starve the helper that copies.
func TestHelperIsOutOfReach(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- d.CopyIn(t.Context(), b.h, "/workspace", pr) }()
	w := tar.NewWriter(pw)
	if err := w.WriteHeader(&tar.Header{Name: "slow", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	r := b.sh(t, `n=0; for p in /proc/[0-9]*; do p=${p#/proc/}; if grep -q nofx-files /proc/$p/comm; then n=$((n+1)); kill -9 $p && echo killed; kill -STOP $p && echo stopped; cat /proc/$p/environ && echo read; fi; done; kill -9 -1; echo $n`)
	if r.out != "1\n" {
		t.Errorf("the helper was not found: %q %q", r.out, r.err)
	}
	if strings.Contains(r.out, "killed") || strings.Contains(r.out, "stopped") || strings.Contains(r.out, "read") {
		t.Errorf("the helper is within reach: %q %q", r.out, r.err)
	}
	if _, err := w.Write([]byte("cd")); err != nil {
		t.Fatal(err)
	}
	if err := errorsJoin(w.Close(), pw.Close(), <-done); err != nil {
		t.Fatal(err)
	}
	if r := b.sh(t, "cat slow"); r.out != "abcd" {
		t.Errorf("the file holds %q", r.out)
	}
}

func errorsJoin(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// A step with one process has none left for a transfer. That is its own doing, and
// none of a driver that does not work.
func TestNoProcessForFiles(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	for pids, want := range map[int64]step.Kind{1: step.KindInvalid, 2: ""} {
		b := newBox(t, d, func(s *driver.Spec) { s.Resources.Pids = pids })
		err := d.CopyIn(t.Context(), b.h, "/workspace", archive(t, regular("x", "new", 0o644)))
		if step.KindOf(err) != want || want != "" && !strings.Contains(err.Error(), "no process left") {
			t.Errorf("with %d: %v, want it %q", pids, err, want)
		}
	}
}
