package rootfs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/sdk/step"
)

// standIn is a debootstrap that unpacks a prepared archive, and leaves what
// the real one does of the host.
func standIn(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	busybox, err := testdocker.Busybox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "root.tar"), busybox, 0o644); err != nil {
		t.Fatal(err)
	}
	script := `#!/bin/sh
set -e
echo "I: $*"
while [ "${1#--}" != "$1" ]; do shift; done
mkdir -p "$2/etc" "$2/var/lib/apt/lists" "$2/dev" "$2/proc"
tar --extract --directory="$2" --file="` + dir + `/root.tar"
echo secret-host >"$2/etc/hostname"; echo nameserver 192.0.2.1 >"$2/etc/resolv.conf"
echo x >"$2/var/lib/apt/lists/x"; echo 1234 >"$2/etc/machine-id"
[ $$ = 1 ] && mount -t proc proc "$2/proc" && test -d "$2/proc/1"
` + more + "\n"
	path := filepath.Join(dir, "debootstrap")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBuild(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var log bytes.Buffer
	image, err := s.Build(t.Context(), "deb", Recipe{
		Where: Where{Suite: "trixie", Mirror: "http://mirror.test/debian"}, Packages: []string{"python3", "g++"}, Debootstrap: standIn(t, ""), Log: &log,
	}, DefaultLimits())
	if err != nil {
		t.Fatalf("%v: %s", err, log.Bytes())
	}
	if want := "--variant=minbase --force-check-gpg --include=python3,g++ trixie "; !strings.Contains(log.String(), want) || !strings.HasSuffix(strings.TrimSpace(log.String()), "http://mirror.test/debian") {
		t.Errorf("debootstrap's arguments: %s", log.Bytes())
	}
	if image.Source != "debootstrap trixie from http://mirror.test/debian with python3,g++" {
		t.Errorf("source %q", image.Source)
	}
	for name, want := range map[string]string{"etc/hostname": "sandbox\n", "etc/resolv.conf": ""} {
		if got, err := os.ReadFile(filepath.Join(image.Path, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, gone := range []string{"var/lib/apt/lists", "etc/machine-id", "proc/1"} {
		if _, err := os.Lstat(filepath.Join(image.Path, gone)); !os.IsNotExist(err) {
			t.Errorf("%s is there (%v)", gone, err)
		}
	}
	passwd, err := os.ReadFile(filepath.Join(image.Path, "etc/passwd"))
	if err != nil || !strings.Contains(string(passwd), "\nstep:x:1000:1000:") {
		t.Errorf("passwd: %q, %v", passwd, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), s.dir) {
		t.Errorf("something is left mounted below %s (%v)", s.dir, err)
	}
}

func TestBuildFails(t *testing.T) {
	t.Parallel()
	good := Recipe{Where: Where{Suite: "trixie", Mirror: "http://mirror.test/debian"}}
	for what, c := range map[string]struct {
		script string
		change func(*Recipe)
		kind   step.Kind
		says   string
	}{
		"it fails":        {"echo E: no such suite >&2; exit 7", func(*Recipe) {}, step.KindUnavailable, "exit status 7: E: no such suite"},
		"a package":       {"", func(r *Recipe) { r.Packages = []string{"--help"} }, step.KindInvalid, "--package"},
		"a suite":         {"", func(r *Recipe) { r.Suite = "--print-debs" }, step.KindInvalid, "--suite"},
		"a path as suite": {"", func(r *Recipe) { r.Suite = "../x" }, step.KindInvalid, "--suite"},
		"a mirror":        {"", func(r *Recipe) { r.Mirror = "--help" }, step.KindInvalid, "--mirror"},
		"a password":      {"", func(r *Recipe) { r.Mirror = "http://me:hush@mirror.test/debian" }, step.KindInvalid, "--mirror"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, r := newStore(t), good
			r.Debootstrap, r.Log = standIn(t, c.script), &bytes.Buffer{}
			c.change(&r)
			_, err := s.Build(t.Context(), "deb", r, DefaultLimits())
			if !step.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hush") {
				t.Errorf("%v, want %s with %q", err, c.kind, c.says)
			}
			if left := s.names(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// Killed in the middle, it leaves no process and no mount.
func TestBuildInterrupted(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx, stop := cancelled(t)
	log := writer(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("hanging")) {
			stop()
		}
		return len(p), nil
	})
	_, err := s.Build(ctx, "deb", Recipe{Where: Where{Suite: "trixie", Mirror: "http://mirror.test/debian"}, Debootstrap: standIn(t, "sleep 1000 & echo hanging; wait"), Log: log}, DefaultLimits())
	if err == nil || !strings.Contains(err.Error(), errStop.Error()) {
		t.Errorf("%v", err)
	}
	if left := s.names(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestWhere(t *testing.T) {
	t.Parallel()
	root := fstest.MapFS{
		"etc/os-release":       {Data: []byte("ID=debian\nVERSION_CODENAME=bookworm\n")},
		"etc/apt/sources.list": {Data: []byte("# deb http://commented.test/debian trixie main\ndeb-src http://source.test/debian trixie main\ndeb [arch=amd64 signed-by=/k] http://list.test/debian trixie main contrib\n")},
		"etc/apt/sources.list.d/a.sources": {Data: []byte("Types: deb\nEnabled: no\nURIs: http://off.test/debian\nSuites: bookworm\n\n" +
			"Types: deb deb-src\n# a comment\nURIs: http://me:hush@private.test/debian\nSuites: bookworm\n\n" +
			"Types: deb\nURIs: http://deb822.test/debian http://second.test/debian\nSuites: bookworm\n bookworm-updates\nComponents: main\n")},
		"etc/apt/sources.list.d/b.save": {Data: []byte("deb http://saved.test/debian sid main\n")},
	}
	for _, c := range []struct{ ask, want Where }{
		{Where{}, Where{"bookworm", "http://deb822.test/debian"}},
		{Where{Suite: "bookworm-updates"}, Where{"bookworm-updates", "http://deb822.test/debian"}},
		{Where{Suite: "trixie"}, Where{"trixie", "http://list.test/debian"}},
		{Where{Suite: "sid", Mirror: "file:///srv/debian"}, Where{"sid", "file:///srv/debian"}},
	} {
		if got, err := c.ask.complete(root); err != nil || got != c.want {
			t.Errorf("%+v: %+v, %v", c.ask, got, err)
		}
	}
	if _, err := (Where{Suite: "sid"}).complete(root); !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "--mirror") {
		t.Errorf("a suite that no source has: %v", err)
	}
	if _, err := (Where{}).complete(fstest.MapFS{}); !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "--suite") {
		t.Errorf("a host that is no Debian: %v", err)
	}
}
