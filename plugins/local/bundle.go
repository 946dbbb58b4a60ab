package local

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/plugins/supervised"
	"github.com/nofx-run/nofx/sdk/step"
)

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
		Path string `json:"path,omitempty"` // to be joined; "" = a new one
	}
)

func tmpfs(path string, mb int64) ociMount {
	return ociMount{Destination: path, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "size=" + strconv.FormatInt(mb, 10) + "m"}}
}

// writeBundle puts the bundle of one sandbox into its folder. PID 1 may mount in
// there for a moment, in gVisor's kernel; to the host, that kernel and all that
// it serves is the sandbox's own uid in a user namespace.
func writeBundle(c Config, x *supervised.Box) error {
	able := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SYS_ADMIN"}
	network := ociNamespace{Type: "network"}
	if supervised.Networked(x.Spec) {
		network.Path = "/proc/self/ns/net" // runsc is started in one of the sandbox's own
	}
	ids := []ociID{{0, x.Spec.Host.UIDBase, 1}, {stepUID, x.WorkspaceUID, 1}}
	s := ociSpec{
		Version: "1.0.2", Hostname: "sandbox", Root: ociRoot{Path: stageRoot, Readonly: true},
		Process: ociProcess{
			Args: []string{contained.SharePath + "/" + contained.InitName, "init"}, Env: []string{}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: map[string][]string{"bounding": able, "effective": able, "permitted": able},
			Rlimits:      []ociRlimit{{"RLIMIT_NOFILE", 16384, 1024}, {"RLIMIT_CORE", 0, 0}},
		},
		Mounts: []ociMount{
			{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}},
			tmpfs("/tmp", c.TmpMB), tmpfs("/home/step", c.TmpMB), tmpfs("/dev/shm", c.ShmMB),
			{Destination: "/workspace", Type: "bind", Source: x.Workspace, Options: []string{"bind", "rprivate", "nosuid", "nodev", "rw"}},
		},
		Linux: ociLinux{UIDMappings: ids, GIDMappings: ids, Namespaces: []ociNamespace{
			{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "user"}, network,
		}},
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
