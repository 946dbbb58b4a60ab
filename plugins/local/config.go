package local

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/plugins/supervised"
	"github.com/nofx-run/nofx/sdk/step"
)

// RootHost is the root file system that shows the host's own /usr.
const RootHost = "host"

// Config is the driver's configuration.
type Config struct {
	// StateDir is where sandboxes keep their state: root's own, on a local
	// file system that holds the output of all running steps.
	StateDir string `json:"state_dir"`
	// Supervisor is the path of nofx-supervisor; "" = beside the driver.
	Supervisor string `json:"supervisor,omitempty"`
	// Runsc is the path of gVisor's runsc, for steps that demand that level; ""
	// = none can have it.
	Runsc string `json:"runsc,omitempty"`
	// RootFS is "host" (development only), or the folder of an image.
	RootFS string `json:"rootfs,omitempty"`
	// TmpMB bounds /tmp and /home/step, ShmMB bounds /dev/shm, in MiB. What
	// lies there counts against the sandbox's memory.
	TmpMB int64 `json:"tmp_mb,omitempty"`
	ShmMB int64 `json:"shm_mb,omitempty"`
	// Egress is the path of nofx-egress; "" = beside the driver. Resolvers are
	// the name servers that it asks, ADDRESS:PORT; none = those of the host.
	Egress    string   `json:"egress,omitempty"`
	Resolvers []string `json:"resolvers,omitempty"`
	// MaxOutputMB bounds what is kept of one exec's output, in MiB, whatever
	// limit the exec has itself.
	MaxOutputMB int64 `json:"max_output_mb,omitempty"`
}

const configSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "required": ["state_dir"],
  "properties": {
    "state_dir": {"type": "string", "pattern": "^/", "description": "folder of root's own for the state of sandboxes"},
    "supervisor": {"type": "string", "pattern": "^/", "description": "nofx-supervisor; default: beside the driver"},
    "runsc": {"type": "string", "pattern": "^/", "description": "gVisor's runsc, for steps that demand isolation gvisor; default: none can have it"},
    "rootfs": {"type": "string", "pattern": "^(host|/.+)$", "default": "host", "description": "folder of an image, or host: the host's own /usr, for development only"},
    "egress": {"type": "string", "pattern": "^/", "description": "nofx-egress; default: beside the driver"},
    "resolvers": {"type": "array", "maxItems": 8, "items": {"type": "string", "minLength": 1}, "description": "name servers to ask for sandboxes with a network, ADDRESS:PORT; default: those of the host"},
    "tmp_mb": {"type": "integer", "minimum": 1, "maximum": 1048576, "default": 1024, "description": "size of /tmp and of /home/step in MiB, within the step's memory"},
    "shm_mb": {"type": "integer", "minimum": 1, "maximum": 1048576, "default": 256, "description": "size of /dev/shm in MiB, within the step's memory"},
    "max_output_mb": {"type": "integer", "minimum": 1, "maximum": 1048576, "default": 1024, "description": "most output that is kept of one exec, in MiB"}
  }
}`

// parseConfig reads a configuration strictly and fills in the defaults.
func parseConfig(data json.RawMessage) (Config, error) {
	c := Config{RootFS: RootHost, TmpMB: 1024, ShmMB: 256, MaxOutputMB: 1024}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, step.Errorf(step.KindInvalid, "configuration: %w", err)
	}
	for name, path := range map[string]string{"state_dir": c.StateDir, "supervisor": c.Supervisor, "egress": c.Egress, "runsc": c.Runsc} {
		if path != "" && !filepath.IsAbs(path) {
			return c, step.Errorf(step.KindInvalid, "configuration: %s is not an absolute path", name)
		}
	}
	if c.StateDir == "" {
		return c, step.Errorf(step.KindInvalid, "configuration: state_dir is missing")
	}
	if c.RootFS != RootHost && !filepath.IsAbs(c.RootFS) {
		return c, step.Errorf(step.KindInvalid, "configuration: rootfs is neither host nor an absolute path")
	}
	for name, mb := range map[string]int64{"tmp_mb": c.TmpMB, "shm_mb": c.ShmMB, "max_output_mb": c.MaxOutputMB} {
		if mb < 1 || mb > 1<<20 {
			return c, step.Errorf(step.KindInvalid, "configuration: %s is not between 1 and %d", name, 1<<20)
		}
	}
	if err := egress.CheckResolvers(c.Resolvers); err != nil {
		return c, err
	}
	return c.resolve()
}

// resolve makes the paths those that the kernel will see.
func (c Config) resolve() (Config, error) {
	if c.Supervisor == "" {
		self, err := os.Executable()
		if err != nil {
			return c, step.Errorf(step.KindInternal, "configuration: %w", err)
		}
		c.Supervisor = filepath.Join(filepath.Dir(self), "nofx-supervisor")
	}
	if c.Egress == "" {
		c.Egress = filepath.Join(filepath.Dir(c.Supervisor), "nofx-egress")
	}
	var err error
	if c.StateDir, err = supervised.OwnFolder(c.StateDir); err != nil {
		return c, err
	}
	if c.RootFS != RootHost {
		if c.RootFS, err = filepath.EvalSymlinks(c.RootFS); err != nil {
			return c, step.Errorf(step.KindInvalid, "configuration: rootfs: %w", err)
		}
		if c.RootFS == "/" || strings.HasPrefix(c.RootFS+"/", c.StateDir+"/") || strings.HasPrefix(c.StateDir+"/", c.RootFS+"/") {
			return c, step.Errorf(step.KindInvalid, "configuration: rootfs must be a folder of its own, apart from state_dir")
		}
	}
	return c, nil
}
