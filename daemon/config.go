package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/bounded"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/internal/strictyaml"
	"github.com/nofx-run/nofx/sdk/step"
)

// Config is the daemon's configuration file. Paths are absolute.
type Config struct {
	APIURL    string `yaml:"api_url"`    // https://HOST:PORT
	CAFile    string `yaml:"ca_file"`    // authorities to trust; "" = the system's
	TokenFile string `yaml:"token_file"` // holds the worker's key, readable by its owner only
	DataDir   string `yaml:"data_dir"`   // ledger, journals, workspaces, sandboxes' state
	PluginDir string `yaml:"plugin_dir"` // nofx-driver-*, nofx-supervisor and nofx-egress
	PidDir    string `yaml:"pid_dir"`    // gets nofx-driver-<name>.pid; "" = none

	Name   string `yaml:"name"`   // of this worker, stable; "" = the host's name
	Region string `yaml:"region"` // where this host is; "" = local
	Slots  int    `yaml:"slots"`  // attempts at once; 0 = 16
	Listen string `yaml:"listen"` // metrics and health; "" = 127.0.0.1:0

	Limits    Limits    `yaml:"limits"`    // the most that any step gets here
	Defaults  Defaults  `yaml:"defaults"`  // what it gets of the disk when nobody says anything
	Snapshots Snapshots `yaml:"snapshots"` // of workspaces

	CgroupRoot string `yaml:"cgroup_root"` // below the mount point; "" = nofx.slice
	UIDBase    uint32 `yaml:"uid_base"`    // first uid of this installation's own; 0 = 1879113728
	UIDCount   uint32 `yaml:"uid_count"`   // 0 = 131072

	DrainTimeout time.Duration `yaml:"drain_timeout"` // for running steps at SIGTERM; 0 = 30s

	PluginKeyFile string         `yaml:"plugin_key_file"`        // the public key that plugin_dir is signed with
	AllowUnsigned bool           `yaml:"allow_unsigned_plugins"` // instead of that key, for development
	Drivers       map[string]any `yaml:"drivers"`                // each driver's own configuration, and its region

	Points failpoint.Points `yaml:"-"` // where tests hold it
}

const maxConfig = 1 << 20 // bytes

// ReadConfig reads a configuration file. A key that is not known is an error
// that names its line.
func ReadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, step.Errorf(step.KindInvalid, "configuration: %w", err)
	}
	defer f.Close()
	raw, err := bounded.File(f, maxConfig)
	if err != nil {
		return Config{}, step.Errorf(step.KindInvalid, "configuration: %w", err)
	}
	var c Config
	if err := strictyaml.Unmarshal(raw, &c); err != nil {
		return c, step.Errorf(step.KindInvalid, "configuration %s: %w", path, err)
	}
	return c.withDefaults()
}

func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, err
		}
		c.Name = name
	}
	def(&c.Region, "local")
	def(&c.Slots, 16)
	def(&c.Listen, "127.0.0.1:0")
	def(&c.CgroupRoot, "nofx.slice")
	def(&c.UIDBase, 1879113728)
	def(&c.UIDCount, 131072)
	def(&c.DrainTimeout, 30*time.Second)
	for field, value := range map[string]string{"api_url": c.APIURL, "token_file": c.TokenFile, "data_dir": c.DataDir, "plugin_dir": c.PluginDir} {
		if value == "" {
			return c, step.Errorf(step.KindInvalid, "configuration: %s is missing", field)
		}
	}
	for field, value := range map[string]string{"data_dir": c.DataDir, "plugin_dir": c.PluginDir, "token_file": c.TokenFile, "plugin_key_file": c.PluginKeyFile} {
		if value != "" && !filepath.IsAbs(value) {
			return c, step.Errorf(step.KindInvalid, "configuration: %s: %q is not an absolute path", field, value)
		}
	}
	if c.AllowUnsigned == (c.PluginKeyFile != "") {
		return c, step.Errorf(step.KindInvalid, "configuration: plugin_key_file: it must name a public key, or allow_unsigned_plugins be true instead")
	}
	if !regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`).MatchString(c.Name) {
		return c, step.Errorf(step.KindInvalid, "configuration: name: %q is not 1 to 100 of [A-Za-z0-9._-]", c.Name)
	}
	if !step.ValidRegion(c.Region) {
		return c, step.Errorf(step.KindInvalid, "configuration: region: %.80q is not 1 to 63 of a-z, 0-9 and -, with no - first", c.Region)
	}
	if _, err := c.driverRegions(); err != nil {
		return c, err
	}
	if c.Slots < 1 || c.Slots > 1000 {
		return c, step.Errorf(step.KindInvalid, "configuration: slots: %d is not from 1 to 1000", c.Slots)
	}
	if err := c.Limits.check(); err != nil {
		return c, err
	}
	if err := c.Defaults.check(); err != nil {
		return c, err
	}
	if err := c.Snapshots.check(); err != nil {
		return c, err
	}
	if c.DrainTimeout < 0 {
		return c, step.Errorf(step.KindInvalid, "configuration: drain_timeout: %s is negative", c.DrainTimeout)
	}
	return c, nil
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// token reads the worker's key from its file, which nobody else may read.
func (c Config) token() (string, error) {
	info, err := os.Stat(c.TokenFile)
	if err != nil {
		return "", step.Errorf(step.KindInvalid, "token_file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", step.Errorf(step.KindInvalid, "token_file %s: others can read it; type: chmod 600 %s", c.TokenFile, c.TokenFile)
	}
	raw, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", step.Errorf(step.KindInvalid, "token_file: %w", err)
	}
	token := strings.TrimSpace(string(raw))
	if token == "" {
		return "", step.Errorf(step.KindInvalid, "token_file %s is empty", c.TokenFile)
	}
	return token, nil
}

// pluginKey reads the key that the plugins are signed with. Whoever can change
// a plugin must not be able to change the key: it is root's alone, and not
// beside the plugins. The zero key is that of a host without signatures.
func (c Config) pluginKey() (key pluginmanifest.PublicKey, err error) {
	if c.PluginKeyFile == "" {
		return key, nil
	}
	defer func() {
		if err != nil {
			err = step.Errorf(step.KindInvalid, "configuration: plugin_key_file: %w", err)
		}
	}()
	path, err := filepath.EvalSymlinks(c.PluginKeyFile)
	if err != nil {
		return key, err
	}
	dir, err := filepath.EvalSymlinks(c.PluginDir)
	if err != nil {
		return key, err
	}
	if rel, err := filepath.Rel(dir, path); err != nil || rel != ".." && !strings.HasPrefix(rel, "../") {
		return key, fmt.Errorf("%s is in plugin_dir, beside what it vouches for", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe must not hold us up
	if err != nil {
		return key, err
	}
	defer f.Close()
	if err := errors.Join(pluginmanifest.CheckOwner(f), pluginmanifest.CheckParents(c.PluginKeyFile)); err != nil {
		return key, err
	}
	data, err := bounded.File(f, maxConfig)
	if err != nil {
		return key, err
	}
	if key, err = pluginmanifest.ParsePublicKey(data); err != nil {
		return key, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// hostDrivers are those that come with NOFX and keep state on this host: below
// the data folder unless the file says otherwise.
var hostDrivers = [...]string{"local", "container"}

// driverConfigs is what each plugin is configured with; one without an entry
// does not run. The local driver has one always.
func (c Config) driverConfigs() (map[string]json.RawMessage, error) {
	drivers := map[string]any{"local": nil}
	maps.Copy(drivers, c.Drivers)
	all := map[string]json.RawMessage{}
	for name, v := range drivers {
		if v == nil {
			v = map[string]any{}
		}
		if fields, ok := v.(map[string]any); ok && slices.Contains(hostDrivers[:], name) && fields["state_dir"] == nil {
			fields = maps.Clone(fields)
			fields["state_dir"] = c.path(name)
			v = fields
		}
		raw, err := json.Marshal(withoutRegion(v))
		if err != nil {
			return nil, step.Errorf(step.KindInvalid, "configuration: drivers.%s: %w", name, err)
		}
		all[name] = raw
	}
	return all, nil
}

func (c Config) path(elem ...string) string {
	return filepath.Join(append([]string{c.DataDir}, elem...)...)
}
