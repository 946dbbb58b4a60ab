package daemon

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const good = `
api_url: https://127.0.0.1:7443
token_file: /etc/nofx/worker.token
data_dir: /var/lib/nofx
plugin_dir: /usr/lib/nofx
name: host-1
allow_unsigned_plugins: true
`

func read(t *testing.T, body string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nofxd.yaml")
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadConfig(path)
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	got, err := read(t, good+"drain_timeout: 90s\n")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		APIURL: "https://127.0.0.1:7443", TokenFile: "/etc/nofx/worker.token", DataDir: "/var/lib/nofx", PluginDir: "/usr/lib/nofx",
		Name: "host-1", Region: "local", Slots: 16, Listen: "127.0.0.1:0", CgroupRoot: "nofx.slice",
		UIDBase: 1879113728, UIDCount: 131072, AllowUnsigned: true, DrainTimeout: 90 * time.Second,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, names string }{
		"unknown key":      {good + "slotz: 3\n", "line 8: field slotz not found"},
		"too long":         {good + strings.Repeat("# much\n", maxConfig/7) + "slots: 0x\n", "bytes, and may have 1048576"},
		"two documents":    {good + "---\nslots: 3\n", "more than one document"},
		"missing":          {strings.Replace(good, "data_dir: /var/lib/nofx\n", "", 1), "data_dir is missing"},
		"relative":         {strings.Replace(good, "/var/lib/nofx", "lib", 1), `data_dir: "lib" is not an absolute path`},
		"no plugin key":    {strings.Replace(good, "true", "false", 1), "plugin_key_file: it must name"},
		"key and unsigned": {good + "plugin_key_file: /etc/nofx/plugins.pub\n", "allow_unsigned_plugins"},
		"relative key":     {strings.Replace(good, "allow_unsigned_plugins: true", "plugin_key_file: x.pub", 1), `plugin_key_file: "x.pub" is not an absolute path`},
		"too many":         {good + "slots: 100000\n", "slots: 100000"},
		"bad name":         {strings.Replace(good, "host-1", "a/b", 1), `name: "a/b"`},
		"not yaml":         {"{", "configuration"},
		"bad duration":     {good + "drain_timeout: soon\n", "line 8"},
		"negative limit":   {good + "limits: {cpu: -1}\n", "limits"},
		"no number":        {good + "limits: {cpu: .nan}\n", "limits: cpu: NaN"},
		"without end":      {good + "limits: {cpu: .inf}\n", "limits: cpu: +Inf"},
		"no time":          {good + "limits: {timeout: 500us}\n", "limits: timeout: 500µs"},
		"too small a disk": {good + "limits: {disk_mb: 7}\n", "limits: disk_mb: 7"},
		"small default":    {good + "defaults: {disk_mb: 7}\n", "defaults: disk_mb: 7 is not from 8"},
		"large default":    {good + "defaults: {disk_mb: 17000000}\n", "defaults: disk_mb: 17000000"},
		"negative default": {good + "defaults: {io_mb_s: -1}\n", "defaults: io_mb_s: -1"},
		"odd default":      {good + "defaults: {pids: 3}\n", "pids"},
		"odd network":      {good + "limits: {network: some}\n", "limits: network: \"some\""},
		"odd limit":        {good + "limits: {ram: 1}\n", "ram"},
		"large layers":     {good + "snapshots: {max_mb: 1025}\n", "snapshots.max_mb"},
		"negative layers":  {good + "snapshots: {max_mb: -1}\n", "snapshots.max_mb"},
		"bad region":       {good + "region: EU\n", `region: "EU"`},
		"a driver's":       {good + "drivers: {e2b: {region: eu_1}}\n", "drivers.e2b.region: eu_1"},
		"no text":          {good + "drivers: {e2b: {region: 7}}\n", "drivers.e2b.region: 7"},
		"local elsewhere":  {good + "region: eu-1\ndrivers: {local: {region: us-1}}\n", "drivers.local.region: the driver's sandboxes are on this host, which is in eu-1"},
		"negative":         {good + "drain_timeout: -5s\n", "drain_timeout: -5s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := read(t, c.body)
			if !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), c.names) {
				t.Errorf("got %v, want it to name %q", err, c.names)
			}
		})
	}
}

// Zero is none, and what is left out is built in.
func TestDiskDefaults(t *testing.T) {
	t.Parallel()
	for more, want := range map[string]step.Resources{
		"": {DiskMB: 10240, IOMBs: usualIOMBs}, "defaults: {disk_mb: 0}\n": {IOMBs: usualIOMBs},
		"defaults: {disk_mb: 64, io_mb_s: 0}\n": {DiskMB: 64}, "defaults: {io_mb_s: 7}\n": {DiskMB: 10240, IOMBs: 7},
	} {
		c, err := read(t, good+more)
		if got := c.Defaults.resources(); err != nil || got != want {
			t.Errorf("%q: %+v, %v", more, got, err)
		}
	}
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	c := Config{TokenFile: filepath.Join(t.TempDir(), "token")}
	if err := os.WriteFile(c.TokenFile, []byte("nofx_w_secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := c.token(); got != "nofx_w_secret" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Chmod(c.TokenFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.token(); !step.Is(err, step.KindInvalid) || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by all: %v", err)
	}
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	a, err := read(t, good)
	if err != nil {
		t.Fatal(err)
	}
	b, err := read(t, good+"slots: 3\ndrain_timeout: 1s\ndrivers: {local: {tmp_mb: 5}}\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"slots", "drain_timeout"}, a.differences(b)); diff != "" {
		t.Error(diff)
	}
	if got := b.differences(b); got != nil {
		t.Errorf("%v", got)
	}
}

// Every field is either reloaded, no matter of the file, or named when it
// differs; a new one must be put into one of these lists.
func TestDifferencesKnowsEveryField(t *testing.T) {
	t.Parallel()
	restart := []string{"api_url", "ca_file", "token_file", "data_dir", "plugin_dir", "pid_dir", "name", "region", "slots", "listen", "limits", "defaults",
		"cgroup_root", "uid_base", "uid_count", "drain_timeout", "plugin_key_file", "allow_unsigned_plugins", "snapshots"}
	other := []string{"drivers", "-"}
	var known []string
	for i := range reflect.TypeFor[Config]().NumField() {
		name := reflect.TypeFor[Config]().Field(i).Tag.Get("yaml")
		known = append(known, name)
		var c Config
		field := reflect.ValueOf(&c).Elem().Field(i)
		change(t, field)
		want := []string{name}
		if slices.Contains(other, name) {
			want = nil
		}
		if diff := cmp.Diff(want, Config{}.differences(c)); diff != "" {
			t.Errorf("%s differs: %s", name, diff)
		}
		if got := c.differences(c); got != nil {
			t.Errorf("%s is the same: %v", name, got)
		}
	}
	all := slices.Concat(restart, other)
	slices.Sort(all)
	slices.Sort(known)
	if diff := cmp.Diff(all, known); diff != "" {
		t.Errorf("fields that nobody has thought of (-lists +Config): %s", diff)
	}
}

// change gives a field another value than its zero one.
func change(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint32:
		v.SetUint(1)
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.Zero(v.Type().Key()), reflect.Zero(v.Type().Elem()))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				change(t, v.Field(i))
				return
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Interface, reflect.Func: // not of the file
	default:
		t.Fatalf("no other value for a %s", v.Type())
	}
}

// The region of a driver is the daemon's: the plugin does not get it.
func TestDriverRegions(t *testing.T) {
	t.Parallel()
	c, err := read(t, good+"region: eu-1\ndrivers: {e2b: {region: us-1, template: base}, modal: {}, local: {region: eu-1}}\n")
	if err != nil {
		t.Fatal(err)
	}
	configs, err := c.driverConfigs()
	if err != nil || string(configs["e2b"]) != `{"template":"base"}` || strings.Contains(string(configs["local"]), "region") {
		t.Errorf("%s %v", configs, err)
	}
	if c.Drivers["e2b"].(map[string]any)["region"] != "us-1" {
		t.Error("the configuration was changed")
	}
	regions, err := c.driverRegions()
	if err != nil {
		t.Fatal(err)
	}
	p := &places{Source: listed{"e2b", "local", "modal"}, host: c.Region}
	p.set(regions)
	for i, want := range []string{"us-1", "eu-1", "eu-1"} {
		if got := p.Infos()[i]; got.Region != want {
			t.Errorf("%s is in %s, want %s", got.Name, got.Region, want)
		}
	}
	p.set(map[string]string{"modal": "us-2"})
	if got := p.Infos(); got[0].Region != "eu-1" || got[2].Region != "us-2" {
		t.Errorf("after a reload: %+v", got)
	}
}

// listed are drivers, by name.
type listed []string

func (l listed) Infos() []wire.DriverInfo {
	all := make([]wire.DriverInfo, len(l))
	for i, name := range l {
		all[i].Name = name
	}
	return all
}

func (listed) Driver(name string) (driver.Driver, error) {
	return nil, step.Errorf(step.KindNotFound, "no driver %s", name)
}

func TestPluginKey(t *testing.T) {
	t.Parallel()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want := pluginmanifest.PublicOf(private)
	for name, c := range map[string]struct {
		place string // below the base
		body  []byte
		spoil func(path string) error
		names string // in the error; "" = it is read
	}{
		"good":              {"key.pub", want.Encode(), nil, ""},
		"writable by group": {"key.pub", want.Encode(), func(p string) error { return os.Chmod(p, 0o664) }, "can be written by others"},
		"foreign-owned":     {"key.pub", want.Encode(), func(p string) error { return os.Chown(p, 65534, -1) }, "does not belong to root"},
		"beside plugins":    {"plugins/key.pub", want.Encode(), nil, "beside what it vouches for"},
		"folder above":      {"key.pub", want.Encode(), func(p string) error { return os.Chmod(filepath.Dir(p), 0o775) }, "can be written by others"},
		"garbage":           {"key.pub", []byte("hello"), nil, "not a public key"},
		"missing":           {"key.pub", want.Encode(), os.Remove, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			cfg := Config{PluginDir: filepath.Join(base, "plugins"), PluginKeyFile: filepath.Join(base, c.place)}
			if err := errors.Join(os.Mkdir(cfg.PluginDir, 0o755), os.WriteFile(cfg.PluginKeyFile, c.body, 0o644)); err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				if err := c.spoil(cfg.PluginKeyFile); err != nil {
					t.Fatal(err)
				}
			}
			got, err := cfg.pluginKey()
			if c.names == "" {
				if err != nil || got.ID() != want.ID() {
					t.Errorf("%v, %v", got.ID(), err)
				}
				return
			}
			if !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "plugin_key_file: ") || !strings.Contains(err.Error(), c.names) {
				t.Errorf("got %v, want it to name %q", err, c.names)
			}
		})
	}
}

func TestHostDriversGetTheirStateFolder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		drivers map[string]any
		want    map[string]string
	}{
		"none":  {nil, map[string]string{"local": `{"state_dir":"/d/local"}`}},
		"other": {map[string]any{"modal": nil}, map[string]string{"local": `{"state_dir":"/d/local"}`, "modal": `{}`}},
		"own": {map[string]any{"local": map[string]any{"rootfs": "host"}},
			map[string]string{"local": `{"rootfs":"host","state_dir":"/d/local"}`}},
		"container": {map[string]any{"container": nil},
			map[string]string{"local": `{"state_dir":"/d/local"}`, "container": `{"state_dir":"/d/container"}`}},
		"elsewhere": {map[string]any{"local": map[string]any{"state_dir": "/e"}}, map[string]string{"local": `{"state_dir":"/e"}`}},
	} {
		raw, err := Config{DataDir: "/d", Drivers: c.drivers}.driverConfigs()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for driver, config := range raw {
			got[driver] = string(config)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// The operators' page says that it has every key.
func TestEveryKeyIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	for field := range reflect.TypeFor[Config]().Fields() {
		if key := field.Tag.Get("yaml"); key != "-" && !strings.Contains(string(page), "`"+key+"`") {
			t.Errorf("docs/operators.md does not have %s", key)
		}
	}
}
