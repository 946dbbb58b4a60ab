package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/plugins/supervised"
	"github.com/nofx-run/nofx/sdk/step"
)

// When an image is asked of its registry.
const (
	PullNever   = "present" // it must be there
	PullMissing = "missing"
	PullAlways  = "always"
)

// Config is the driver's configuration.
type Config struct {
	// Host is the engine's socket, unix:///PATH.
	Host string `json:"host,omitempty"`
	// StateDir is where sandboxes keep their state: root's own, on a local
	// file system, at the same path for the engine as for us.
	StateDir string `json:"state_dir"`
	// Supervisor is the path of nofx-supervisor; "" = beside the driver.
	Supervisor string `json:"supervisor,omitempty"`
	// Image is what a step gets that names none; "" = it must name one.
	Image string `json:"image,omitempty"`
	// Pull is present, missing or always.
	Pull string `json:"pull,omitempty"`
	// AllowedImages are patterns of names without tag and digest, such as
	// docker.io/library/*; empty = every image.
	AllowedImages []string `json:"allowed_images,omitempty"`
	// RequireDigest refuses an image that is named without its digest.
	RequireDigest bool `json:"require_digest,omitempty"`
	// Runtime is the engine's runtime, "" = the engine's default.
	Runtime string `json:"runtime,omitempty"`
	// GVisorRuntime is the engine's runtime that is gVisor's runsc, for steps
	// that demand that level; "" = no step can have it. The same as Runtime:
	// every step has it.
	GVisorRuntime string `json:"gvisor_runtime,omitempty"`
	// WritableRoot lets steps write to the container's own layer, which no cap
	// bounds.
	WritableRoot bool `json:"writable_root,omitempty"`
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
	// ImageCacheMB bounds the images that this driver has pulled, in MiB; 0 =
	// no bound.
	ImageCacheMB int64 `json:"image_cache_mb,omitempty"`
}

const configSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "required": ["state_dir"],
  "properties": {
    "host": {"type": "string", "pattern": "^unix:///.+", "default": "unix:///var/run/docker.sock", "description": "the engine's socket"},
    "state_dir": {"type": "string", "pattern": "^/", "description": "folder of root's own for the state of sandboxes, at the same path for the engine"},
    "supervisor": {"type": "string", "pattern": "^/", "description": "nofx-supervisor; default: beside the driver"},
    "image": {"type": "string", "description": "image of a step that names none; default: it must name one"},
    "pull": {"enum": ["present", "missing", "always"], "default": "present", "description": "when an image is asked of its registry"},
    "allowed_images": {"type": "array", "items": {"type": "string", "minLength": 1}, "description": "patterns of full names without tag and digest, such as docker.io/library/*; default: every image"},
    "require_digest": {"type": "boolean", "default": false, "description": "refuse an image that is named without its digest"},
    "runtime": {"type": "string", "description": "the engine's runtime; default: the engine's own default"},
    "gvisor_runtime": {"type": "string", "description": "the engine's runtime that is gVisor's runsc, for steps that demand isolation gvisor; the same as runtime: for every step"},
    "writable_root": {"type": "boolean", "default": false, "description": "let steps write to the container's own layer, which no cap bounds"},
    "egress": {"type": "string", "pattern": "^/", "description": "nofx-egress; default: beside the driver"},
    "resolvers": {"type": "array", "maxItems": 8, "items": {"type": "string", "minLength": 1}, "description": "name servers to ask for sandboxes with a network, ADDRESS:PORT; default: those of the host"},
    "tmp_mb": {"type": "integer", "minimum": 1, "maximum": 1048576, "default": 1024, "description": "size of /tmp and of /home/step in MiB, within the step's memory"},
    "shm_mb": {"type": "integer", "minimum": 1, "maximum": 1048576, "default": 256, "description": "size of /dev/shm in MiB, within the step's memory"},
    "max_output_mb": {"type": "integer", "minimum": 1, "maximum": 1048576, "default": 1024, "description": "most output that is kept of one exec, in MiB"},
    "image_cache_mb": {"type": "integer", "minimum": 0, "maximum": 1073741824, "default": 0, "description": "most that the images pulled by this driver may take, in MiB; 0: no bound"}
  }
}`

func invalid(field, format string, args ...any) error {
	return step.Errorf(step.KindInvalid, "configuration: "+field+": "+format, args...)
}

// parseConfig reads a configuration strictly and fills in the defaults.
func parseConfig(data json.RawMessage) (Config, error) {
	c := Config{Host: "unix:///var/run/docker.sock", Pull: PullNever, TmpMB: 1024, ShmMB: 256, MaxOutputMB: 1024}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, step.Errorf(step.KindInvalid, "configuration: %w", err)
	}
	if socket, ok := strings.CutPrefix(c.Host, "unix://"); !ok || !filepath.IsAbs(socket) {
		return c, invalid("host", "%.100q is not unix:///PATH; the engine must be on this host", c.Host)
	}
	for name, p := range map[string]string{"state_dir": c.StateDir, "supervisor": c.Supervisor, "egress": c.Egress} {
		if p != "" && !filepath.IsAbs(p) {
			return c, invalid(name, "not an absolute path")
		}
	}
	if c.StateDir == "" {
		return c, invalid("state_dir", "missing")
	}
	for name, mb := range map[string]int64{"tmp_mb": c.TmpMB, "shm_mb": c.ShmMB, "max_output_mb": c.MaxOutputMB} {
		if mb < 1 || mb > 1<<20 {
			return c, invalid(name, "not between 1 and %d", 1<<20)
		}
	}
	if c.ImageCacheMB < 0 || c.ImageCacheMB > 1<<30 {
		return c, invalid("image_cache_mb", "not between 0 and %d", 1<<30)
	}
	if err := errors.Join(c.checkImages(), egress.CheckResolvers(c.Resolvers)); err != nil {
		return c, err
	}
	return c.resolve()
}

func (c Config) checkImages() error {
	if !slices.Contains([]string{PullNever, PullMissing, PullAlways}, c.Pull) {
		return invalid("pull", "%.40q is not present, missing or always", c.Pull)
	}
	for _, p := range c.AllowedImages {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return invalid("allowed_images", "%.100q is no pattern", p)
		}
	}
	if c.Image == "" {
		return nil
	}
	if _, err := c.admit(c.Image); err != nil {
		return invalid("image", "%w", err)
	}
	return nil
}

// admit checks an image's name against the policy and gives it in full.
func (c Config) admit(name string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil || len(name) > 512 {
		return "", step.Errorf(step.KindInvalid, "image %.200q is no image's name", name)
	}
	if len(c.AllowedImages) > 0 && !slices.ContainsFunc(c.AllowedImages, func(p string) bool {
		ok, _ := path.Match(p, ref.Name())
		return ok
	}) {
		return "", step.Errorf(step.KindForbidden, "image %.200q is not among those that this host allows", ref.Name())
	}
	if _, ok := ref.(reference.Digested); !ok && c.RequireDigest {
		return "", step.Errorf(step.KindForbidden, "image %.200q is named without its digest, which this host requires", name)
	}
	return reference.TagNameOnly(ref).String(), nil
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
	return c, nil
}
