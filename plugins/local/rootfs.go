package local

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/step"
)

// rootTemplate says what the sandboxes' root looks like: a folder of our own,
// into which each top-level entry of the root file system is bound, so that
// every mount target is ours and no link of an image can redirect one.
func rootTemplate(rootfs, stateDir string) (*supervisor.Template, error) {
	t := &supervisor.Template{}
	skeleton(t)
	if rootfs == RootHost {
		return t, hostRoot(t)
	}
	return t, imageRoot(t, rootfs, stateDir)
}

// ours are the top-level names that no image fills.
var ours = []string{"dev", "home", "proc", "run", "sys", "tmp", "workspace", "lost+found"}

func skeleton(t *supervisor.Template) {
	for _, dir := range []string{"home", "home/step", "proc", "run", "sys", "tmp", "workspace"} {
		t.Dir(dir, 0o755)
	}
	t.Devices("dev")
	t.Dir("dev/pts", 0o755)
	t.Dir("dev/shm", 0o755)
	for _, n := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		t.Node("dev/"+n.name, 0o666, n.major, n.minor)
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		t.Link("dev/"+name, target)
	}
}

// etcFiles is the small /etc that tells nothing of the host.
var etcFiles = map[string]string{
	"passwd":        "root:x:0:0:root:/root:/bin/sh\nstep:x:1000:1000:step:/home/step:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"group":         "root:x:0:\nstep:x:1000:\nnogroup:x:65534:\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"hosts":         "127.0.0.1 localhost sandbox\n::1 localhost\n",
	"hostname":      "sandbox\n",
	"resolv.conf":   egress.ResolvConf,                    // nobody answers in a sandbox without a network
	"machine-id":    "6e6f66782073616e64626f7820696400\n", // the same everywhere
	"shells":        "/bin/sh\n",
	"profile":       "",
}

// etcOfHost are parts of the host's /etc that programs in /usr need and that
// hold nothing private.
var etcOfHost = []string{"alternatives", "perl", "python3", "terminfo", "ssl/certs", "ssl/openssl.cnf", "ld.so.cache", "mime.types", "magic"}

func hostRoot(t *supervisor.Template) error {
	t.Bind("usr", "/usr")
	for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if err := topLevel(t, "/", name); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	t.Dir("etc", 0o755)
	t.Dir("etc/ssl", 0o755)
	ownEtc(t)
	for _, name := range etcOfHost {
		path, err := filepath.EvalSymlinks(filepath.Join("/etc", name))
		if err != nil {
			continue // not on this host
		}
		if st, err := os.Lstat(path); err == nil && (st.IsDir() || st.Mode().IsRegular()) {
			t.Bind("etc/"+name, path)
		}
	}
	t.Dir("var", 0o755)
	t.Link("var/tmp", "/tmp")
	t.Link("var/run", "/run")
	return nil
}

func ownEtc(t *supervisor.Template) {
	for name, text := range etcFiles {
		t.File("etc/"+name, 0o444, []byte(text))
	}
	t.Link("etc/mtab", "/proc/self/mounts")
}

func imageRoot(t *supervisor.Template, rootfs, stateDir string) error {
	entries, err := os.ReadDir(rootfs)
	if err != nil {
		return step.Errorf(step.KindInvalid, "rootfs: %w", err)
	}
	etc := false
	for _, e := range entries {
		if slices.Contains(ours, e.Name()) {
			continue
		}
		if err := topLevel(t, rootfs, e.Name()); err != nil {
			return err
		}
		etc = etc || e.Name() == "etc"
	}
	if !etc {
		t.Dir("etc", 0o755)
		ownEtc(t)
		return nil
	}
	return ownResolver(t, rootfs, stateDir)
}

// ownResolver puts our resolv.conf over that of an image, which knows other
// name servers. An image without one, or with a link there, keeps what it has.
func ownResolver(t *supervisor.Template, rootfs, stateDir string) error {
	for _, path := range []string{"etc", "etc/resolv.conf"} {
		if st, err := os.Lstat(filepath.Join(rootfs, path)); err != nil || !st.IsDir() && !st.Mode().IsRegular() {
			return nil //nolint:nilerr // there is nothing to cover
		}
	}
	file, err := egress.WriteResolvConf(stateDir)
	if err != nil {
		return err
	}
	t.Bind("etc/resolv.conf", file)
	return nil
}

// topLevel shows one entry of a root file system: a link as a link, a folder
// or file bound; anything else has no place there.
func topLevel(t *supervisor.Template, root, name string) error {
	path := filepath.Join(root, name)
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	switch {
	case st.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return step.Errorf(step.KindInvalid, "rootfs: %w", err)
		}
		t.Link(name, target)
	case st.IsDir() || st.Mode().IsRegular():
		t.Bind(name, path)
	}
	return nil
}
