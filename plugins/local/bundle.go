package local

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nofx-run/nofx/internal/rmtree"
	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/plugins/supervised"
	"github.com/nofx-run/nofx/sdk/step"
)

// skeletonName is the folder in the state folder below which the roots of
// sandboxes with gVisor lie; no sandbox's id begins with a dot.
const skeletonName = ".gvisor"

// bundle is what gVisor is told of a sandbox's root: a folder of ours with
// what is made, and what is bound into it.
type bundle struct {
	root  string
	binds []ociMount
	err   error
}

var _ root = (*bundle)(nil)

// newBundle builds a root in a folder of its own, since sandboxes that run use
// those of earlier configurations.
func newBundle(rootfs, stateDir string) (_ *bundle, err error) {
	parent := filepath.Join(stateDir, skeletonName)
	if err := os.Mkdir(parent, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, step.Errorf(step.KindUnavailable, "state_dir: %w", err)
	}
	b := &bundle{}
	if b.root, err = os.MkdirTemp(parent, "root-"); err != nil {
		return nil, step.Errorf(step.KindUnavailable, "state_dir: %w", err)
	}
	if err = os.Chmod(b.root, 0o755); err == nil {
		b.Dir(contained.SharePath[1:], 0o755)
		err = errors.Join(fillRoot(b, rootfs, stateDir), b.err)
	}
	if err != nil {
		return nil, errors.Join(step.Errorf(step.KindUnavailable, "gVisor's root: %w", err), rmtree.Remove(b.root))
	}
	return b, nil
}

// do makes one part of the root; after an error nothing is made.
func (b *bundle) do(path string, f func(path string) error) {
	if b.err == nil {
		b.err = f(filepath.Join(b.root, path))
	}
}

// Dir implements root.
func (b *bundle) Dir(path string, mode uint32) {
	b.do(path, func(p string) error {
		return errors.Join(os.Mkdir(p, 0o755), os.Chmod(p, os.FileMode(mode)))
	})
}

// File implements root.
func (b *bundle) File(path string, mode uint32, data []byte) {
	b.do(path, func(p string) error {
		return errors.Join(os.WriteFile(p, data, 0o600), os.Chmod(p, os.FileMode(mode)))
	})
}

// Link implements root.
func (b *bundle) Link(path, target string) {
	b.do(path, func(p string) error { return os.Symlink(target, p) })
}

// Bind implements root.
func (b *bundle) Bind(path, host string) {
	b.do(path, func(p string) error {
		st, err := os.Lstat(host)
		if err != nil {
			return err
		}
		b.binds = append(b.binds, bindMount(host, "/"+path, "ro"))
		if _, err := os.Lstat(p); err == nil { // it covers a part of what is bound already
			return nil
		}
		if st.IsDir() {
			return os.Mkdir(p, 0o755)
		}
		return os.WriteFile(p, nil, 0o444)
	})
}

// Node implements root: gVisor has the devices of its own /dev.
func (b *bundle) Node(string, uint32, uint32, uint32) {}

// Devices implements root.
func (b *bundle) Devices(path string) { b.Dir(path, 0o755) }

// What the runtime is told, as far as we say it: config.json of the Open
// Container Initiative's runtime specification.
type (
	ociSpec struct {
		Version  string     `json:"ociVersion"`
		Process  ociProcess `json:"process"`
		Root     ociRoot    `json:"root"`
		Hostname string     `json:"hostname"`
		Mounts   []ociMount `json:"mounts"`
		Linux    ociLinux   `json:"linux"`
	}
	ociProcess struct {
		User            struct{}            `json:"user"` // 0 and 0
		Args            []string            `json:"args"`
		Env             []string            `json:"env"`
		Cwd             string              `json:"cwd"`
		Capabilities    map[string][]string `json:"capabilities"`
		Rlimits         []ociRlimit         `json:"rlimits"`
		NoNewPrivileges bool                `json:"noNewPrivileges"`
	}
	ociRlimit struct {
		Type string `json:"type"`
		Hard uint64 `json:"hard"`
		Soft uint64 `json:"soft"`
	}
	ociRoot struct {
		Path     string `json:"path"`
		Readonly bool   `json:"readonly"`
	}
	ociMount struct {
		Destination string   `json:"destination"`
		Type        string   `json:"type"`
		Source      string   `json:"source"`
		Options     []string `json:"options,omitempty"`
	}
	ociLinux struct {
		UIDMappings []ociID        `json:"uidMappings"`
		GIDMappings []ociID        `json:"gidMappings"`
		Namespaces  []ociNamespace `json:"namespaces"`
	}
	ociID struct {
		Inside uint32 `json:"containerID"`
		Host   uint32 `json:"hostID"`
		Size   uint32 `json:"size"`
	}
	ociNamespace struct {
		Type string `json:"type"`
	}
)

func bindMount(host, path string, options ...string) ociMount {
	return ociMount{Destination: path, Type: "bind", Source: host, Options: append([]string{"bind", "rprivate", "nosuid", "nodev"}, options...)}
}

func tmpfs(path string, mb int64) ociMount {
	return ociMount{Destination: path, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "size=" + strconv.FormatInt(mb, 10) + "m"}}
}

// write puts the bundle of one sandbox into its folder. PID 1 may mount in
// there for a moment, in gVisor's kernel; to the host, that kernel and all that
// it serves is the sandbox's own uid in a user namespace.
func (b *bundle) write(c Config, x *supervised.Box, share string) error {
	able := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SYS_ADMIN"}
	ids := []ociID{{0, x.Spec.Host.UIDBase, 1}, {stepUID, x.WorkspaceUID, 1}}
	s := ociSpec{
		Version: "1.0.2", Hostname: "sandbox", Root: ociRoot{Path: stageRoot, Readonly: true},
		Process: ociProcess{
			Args: []string{contained.SharePath + "/" + contained.InitName, "init"}, Env: []string{}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: map[string][]string{"bounding": able, "effective": able, "permitted": able},
			Rlimits:      []ociRlimit{{"RLIMIT_NOFILE", 16384, 1024}, {"RLIMIT_CORE", 0, 0}},
		},
		Mounts: append(append([]ociMount{{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}}}, b.binds...),
			tmpfs("/tmp", c.TmpMB), tmpfs("/home/step", c.TmpMB), tmpfs("/dev/shm", c.ShmMB),
			bindMount(share, contained.SharePath, "ro"), bindMount(x.Workspace, "/workspace", "rw")),
		Linux: ociLinux{UIDMappings: ids, GIDMappings: ids, Namespaces: []ociNamespace{{"pid"}, {"ipc"}, {"uts"}, {"mount"}, {"network"}, {"user"}}},
	}
	data, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(filepath.Join(x.Dir, "config.json"), data, 0o600)
	}
	if err != nil {
		return step.Errorf(step.KindUnavailable, "gVisor's bundle: %w", err)
	}
	return nil
}
