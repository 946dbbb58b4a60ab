package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/bounded"
	"github.com/nofx-run/nofx/sdk/step"
)

// uses is what uses trees: configurations of drivers, and mount namespaces.
// The kernel is asked for the latter, so that a sandbox counts whoever made it
// and whether or not its driver lives.
type uses struct {
	configured map[string][]string // by path: who names it
	namespaces []namespace
}

// namespace is the mounts of one mount namespace.
type namespace struct {
	user   string // one process in it
	mounts []mount
}

// mount is a line of mountinfo: which part of which file system.
type mount struct {
	id     uint64
	device string
	root   string
}

func (s *Store) uses() (uses, error) {
	u := uses{configured: map[string][]string{}}
	for _, path := range s.Configs {
		if err := u.config(path); err != nil {
			return u, err
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return u, err
	}
	seen := map[string]bool{}
	for _, p := range processes {
		ns, err := os.Readlink(p + "/ns/mnt")
		if err != nil || seen[ns] {
			continue // it has ended
		}
		info, err := os.ReadFile(p + "/mountinfo")
		if err != nil || len(info) == 0 {
			continue
		}
		comm, err := os.ReadFile(p + "/comm")
		if err != nil {
			continue
		}
		seen[ns] = true
		user := fmt.Sprintf("process %s (%s)", filepath.Base(p), bytes.TrimSpace(comm))
		u.namespaces = append(u.namespaces, namespace{user, parseMounts(string(info))})
	}
	return u, nil
}

const maxConfig = 1 << 20

// config notes what a daemon's configuration names.
func (u *uses) config(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return step.Errorf(step.KindInvalid, "%w", err)
	}
	defer f.Close()
	data, err := bounded.File(f, maxConfig)
	if err != nil {
		return step.Errorf(step.KindInvalid, "%w", err)
	}
	var c struct {
		Drivers map[string]map[string]any `yaml:"drivers"`
	}
	if err := yaml.Unmarshal(data, &c); err != nil {
		return step.Errorf(step.KindInvalid, "%s does not tell which root file systems are in use: %w", path, err)
	}
	for driver, fields := range c.Drivers {
		tree, _ := fields["rootfs"].(string)
		if real, err := filepath.EvalSymlinks(tree); tree != "" && err == nil {
			u.configured[real] = append(u.configured[real], fmt.Sprintf("driver %s (%s)", driver, path))
		}
	}
	return nil
}

// of tells who uses a tree.
func (u uses) of(tree string) ([]string, error) {
	all := slices.Clone(u.configured[tree])
	if all == nil {
		all = []string{}
	}
	at, err := locate(tree)
	if err != nil {
		return nil, err
	}
	for _, ns := range u.namespaces {
		if slices.ContainsFunc(ns.mounts, func(m mount) bool {
			return m.device == at.device && (m.root == at.root || strings.HasPrefix(m.root, at.root+"/"))
		}) {
			all = append(all, ns.user)
		}
	}
	return all, nil
}

// locate says where on its file system a folder is.
func locate(path string) (mount, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil {
		return mount{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return mount{}, err
	}
	for line := range strings.Lines(string(info)) {
		f := strings.Fields(line)
		if len(f) < 5 || f[0] != strconv.FormatUint(st.Mnt_id, 10) {
			continue
		}
		rel, err := filepath.Rel(unescape(f[4]), path)
		if err != nil {
			return mount{}, err
		}
		return mount{st.Mnt_id, f[2], filepath.Join(unescape(f[3]), rel)}, nil
	}
	return mount{}, fmt.Errorf("%s: its mount is not in mountinfo", path)
}

func parseMounts(info string) []mount {
	var all []mount
	for line := range strings.Lines(info) {
		if f := strings.Fields(line); len(f) >= 5 {
			all = append(all, mount{device: f[2], root: unescape(f[3])})
		}
	}
	return all
}

// unescape undoes what the kernel does to odd characters in a path.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
