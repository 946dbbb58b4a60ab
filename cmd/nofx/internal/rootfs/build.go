package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/nofx-run/nofx/internal/rmtree"
	"github.com/nofx-run/nofx/sdk/step"
)

// Recipe is what to build.
type Recipe struct {
	Where
	Packages []string
	// Debootstrap is the program; its log goes to Log, and Env is added to its
	// environment.
	Debootstrap string
	Env         []string
	Log         io.Writer
}

var packages = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,99}$`)

const maxPackages = 1000

// Build makes a tree of Debian packages. Their scripts run as root on this
// host, in a folder and process namespace of their own; the packages must be
// signed by whom the host trusts already.
func (s *Store) Build(ctx context.Context, name string, r Recipe, limits Limits) (_ Image, err error) {
	if r.Where, err = r.complete(os.DirFS("/")); err != nil {
		return Image{}, err
	}
	if len(r.Packages) > maxPackages {
		return Image{}, step.Errorf(step.KindInvalid, "%d packages: at most %d (--package)", len(r.Packages), maxPackages)
	}
	for _, p := range r.Packages {
		if !packages.MatchString(p) {
			return Image{}, step.Errorf(step.KindInvalid, "package %.100q: not the name of a Debian package (--package)", p)
		}
	}
	lock, err := s.begin(name)
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	work, err := os.MkdirTemp(s.dir, scratch)
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, rmtree.Remove(work)) }()
	target := filepath.Join(work, "target")
	if err := r.debootstrap(ctx, target); err != nil {
		return Image{}, err
	}
	if err := settle(target); err != nil {
		return Image{}, err
	}
	source := fmt.Sprintf("debootstrap %s from %s", r.Suite, r.Mirror)
	if len(r.Packages) > 0 {
		source += " with " + strings.Join(r.Packages, ",")
	}
	return s.copy(ctx, name, target, source, limits)
}

// debootstrap runs it in namespaces of its own: what it mounts and starts goes
// with it, also when it is killed.
func (r Recipe) debootstrap(ctx context.Context, target string) error {
	args := []string{
		"--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc",
		r.Debootstrap, "--variant=minbase", "--force-check-gpg",
	}
	if len(r.Packages) > 0 {
		args = append(args, "--include="+strings.Join(r.Packages, ","))
	}
	cmd := exec.CommandContext(ctx, "unshare", append(args, r.Suite, target, r.Mirror)...)
	said := &tail{}
	cmd.Env = append([]string{"PATH=" + searchPath, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}, r.Env...)
	out := io.MultiWriter(r.Log, said) // one for both, so that only one goroutine writes
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	lines := strings.Split(said.String(), "\n")
	return step.Errorf(step.KindUnavailable, "debootstrap: %w: %s", err, lines[len(lines)-1])
}

// settle takes out of a new tree what came from this host or is of no use in
// one, and gives it the user that steps are.
func settle(target string) error {
	root, err := os.OpenRoot(target)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for _, name := range []string{"var/cache/apt", "var/lib/apt/lists", "var/log", "debootstrap", "etc/hostname", "etc/resolv.conf", "etc/machine-id", "var/lib/dbus/machine-id"} {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"etc/hostname": "sandbox\n", "etc/resolv.conf": "", "etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n"} {
		if err := root.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, line := range map[string]string{"etc/passwd": "step:x:1000:1000:step:/home/step:/bin/sh\n", "etc/group": "step:x:1000:\n"} {
		text, err := root.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || strings.Contains(string(text), ":1000:") {
			continue
		}
		if err == nil {
			err = root.WriteFile(name, append(text, line...), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
