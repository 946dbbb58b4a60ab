package local

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Real work in the development root: a compiler, make, and the programs that
// they make, in a workspace with the run's uid.
func TestCompile(t *testing.T) {
	t.Parallel()
	const uid = 1800000200
	dir := sharedWorkspace(t, uid)
	b := newBox(t, newDriver(t), func(s *driver.Spec) { s.Host = &driver.HostSpec{Workspace: dir, WorkspaceUID: uid} })
	r := b.sh(t, `set -e
printf '#include <stdio.h>\nint main(void) { puts("made here"); return 0; }\n' > hello.c
printf 'all: hello\nhello: hello.o\n\tcc -o $@ $<\nhello.o: hello.c\n\tcc -c -o $@ $<\n' > Makefile
make -j2 >&2
./hello
id -un; perl -e 'print "perl\n"'; test "$(cat /proc/sys/kernel/hostname)" = sandbox; ls /tmp | wc -l`)
	if r.out != "made here\nstep\nperl\n0\n" || r.exit.Code != 0 {
		t.Errorf("exit %+v, stdout %q, stderr %q", r.exit, r.out, r.err)
	}
}

// imageDriver is a driver on the image in dir.
func imageDriver(t *testing.T, dir string) (*Driver, error) {
	t.Helper()
	data, err := json.Marshal(Config{StateDir: filepath.Join(t.TempDir(), "state"), Supervisor: supervisorPath, RootFS: dir, TmpMB: 16, ShmMB: 16, MaxOutputMB: 16})
	if err != nil {
		t.Fatal(err)
	}
	d := New()
	t.Cleanup(d.Close)
	return d, d.Configure(context.Background(), data)
}

// An image whose folders are links to the host's gets our own in their place,
// and its other links lead only to what the sandbox has.
func TestHostileImage(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, target := range map[string]string{"proc": outside, "sys": outside, "dev": outside, "tmp": outside, "home": "/root", "workspace": outside, "run": outside, "data": outside, "up": "../../../.." + outside} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	probe, err := os.ReadFile(probePath)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/probe"), probe, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := imageDriver(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := d.Describe(t.Context())
	if err != nil || len(desc.Warnings) != 0 {
		t.Errorf("warnings of an image: %v (%v)", desc.Warnings, err)
	}
	b := newBox(t, d)
	r := b.exec(t, command("/bin/probe"))
	got := map[string]int{}
	for line := range strings.Lines(r.out) {
		if name, n, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			got[name] = len(n)
		}
	}
	if r.exit.Code != 0 || len(got) < 50 {
		t.Errorf("the probe in the image: %+v, %q", r.exit, r.err)
	}
	for _, path := range []string{"/proc/secret", "/dev/secret", "/tmp/secret", "/workspace/secret", "/data/secret", "/up/secret", "/run/secret"} {
		if err := d.CopyOut(t.Context(), b.h, path, 0, discard{}); !step.Is(err, step.KindNotFound) && !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, bad := range []string{"/", d.StateDir(), filepath.Join(dir, "no-such")} {
		if _, err := imageDriver(t, bad); !step.Is(err, step.KindInvalid) && bad != d.StateDir() {
			t.Errorf("an image at %s: %v", bad, err)
		}
	}
}

// busyboxRoot is a folder with a root file system as `nofx rootfs` makes them,
// an /etc with a resolver of its own included.
func busyboxRoot(t *testing.T) string {
	t.Helper()
	data, err := testdocker.Busybox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	untar := exec.Command("tar", "--extract", "--directory="+dir)
	untar.Stdin = bytes.NewReader(data)
	if out, err := untar.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/resolv.conf"), []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A root file system that has an /etc keeps it, but for the resolver.
func TestImageWithEtc(t *testing.T) {
	t.Parallel()
	d, err := imageDriver(t, busyboxRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	r := newBox(t, d).sh(t, "cat /etc/resolv.conf; cat /etc/passwd; touch /etc/x /bin/x 2>/dev/null || echo closed; ls /usr 2>/dev/null; echo end")
	if want := egress.ResolvConf + "root:x:0:0:root:/root:/bin/sh\nclosed\nend\n"; r.out != want {
		t.Errorf("%q, %q, want %q", r.out, r.err, want)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestConfigIsStrict(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{``, `[]`, `{}`, `{"state_dir":"x"}`, `{"state_dir":"/x","typo":1}`, `{"state_dir":"/x","tmp_mb":0}`, `{"state_dir":"/x","rootfs":"usr"}`, `{"state_dir":"/x","max_output_mb":-1}`} {
		if _, err := parseConfig(json.RawMessage(bad)); !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
