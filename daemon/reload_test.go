package daemon

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/pluginhost"
	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
	"github.com/nofx-run/nofx/sdk/wire"
)

// The test binary is a plugin as well, as nofx-driver-<name>: the in-memory
// driver under that name.
func TestMain(m *testing.M) {
	if name, ok := strings.CutPrefix(filepath.Base(os.Args[0]), pluginmanifest.Prefix); ok {
		driverrpc.Serve(memdriver.New(memdriver.NewWorld(), memdriver.Options{Name: name}))
		return
	}
	os.Exit(m.Run())
}

// withPlugins gives a daemon whose plugins run with this configuration. It has
// nothing else.
func withPlugins(t *testing.T, names []string, drivers map[string]any) *Daemon {
	t.Helper()
	base := t.TempDir()
	d := &Daemon{cfg: Config{DataDir: base, Region: "eu-1", Drivers: drivers}, log: slog.New(slog.DiscardHandler)}
	if err := os.Mkdir(d.cfg.path("plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		install(t, d.cfg.path("plugins", pluginmanifest.Prefix+name))
	}
	configs, err := d.cfg.driverConfigs()
	if err != nil {
		t.Fatal(err)
	}
	if d.plugins, err = pluginhost.New(pluginhost.Config{
		Dir: d.cfg.path("plugins"), SocketDir: d.cfg.path("sockets"), AllowUnsigned: true, Configs: configs, Log: d.log,
	}); err != nil {
		t.Fatal(err)
	}
	regions, err := d.cfg.driverRegions()
	if err != nil {
		t.Fatal(err)
	}
	d.places = &places{Source: listing{d.plugins}, host: d.cfg.Region}
	d.places.set(regions)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.plugins.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := d.plugins.Ready(ready); err != nil {
		t.Fatal(err)
	}
	return d
}

// listing is what places needs of a host of plugins.
type listing struct{ *pluginhost.Host }

// install makes the test binary a plugin.
func install(t *testing.T, path string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// told waits until a driver is in this region and says so.
func (d *Daemon) told(t *testing.T, name, region, message string) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		var last wire.DriverInfo
		for _, i := range d.places.Infos() {
			if i.Name == name {
				last = i
			}
		}
		if last.Healthy && last.Region == region && strings.Contains(last.Message, message) {
			return
		}
		select {
		case <-d.plugins.Changed():
		case <-limit:
			t.Fatalf("driver %s is %+v, want it in %s, saying %q", name, last, region, message)
		}
	}
}

// What one driver refuses costs no other its new section, and the driver itself
// keeps all of its old one: its region belongs to what it works with.
func TestReloadTakesWhatIsNotRefused(t *testing.T) {
	t.Parallel()
	d := withPlugins(t, []string{"one", "two", "three"}, map[string]any{
		"one": map[string]any{"region": "us-1", "message": "first"},
		"two": map[string]any{"region": "us-1", "message": "first"},
	})
	d.told(t, "one", "us-1", "first")
	d.told(t, "two", "us-1", "first")

	next := d.cfg
	next.Drivers = map[string]any{
		"one":   map[string]any{"region": "us-2", "mesage": "second"},
		"two":   map[string]any{"region": "us-2", "message": "second"},
		"three": map[string]any{"region": "us-3", "message": "new"},
	}
	err := d.Reload(t.Context(), next)
	if err == nil || !strings.Contains(err.Error(), "drivers.one: ") || !strings.Contains(err.Error(), "mesage") || strings.Contains(err.Error(), "drivers.two") {
		t.Errorf("got %v, want it to name driver one and its field alone", err)
	}
	d.told(t, "two", "us-2", "second")
	d.told(t, "three", "us-3", "new")
	d.told(t, "one", "us-1", "first")
	d.told(t, "one", "us-1", "its new configuration is not used")
	d.told(t, "one", "us-1", "mesage")

	next.Drivers = map[string]any{"one": map[string]any{"region": "us-2", "message": "third"}, "two": map[string]any{"message": "second"}}
	if err := d.Reload(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	d.told(t, "one", "us-2", "third")
	d.told(t, "two", "eu-1", "second")
	for _, i := range d.places.Infos() {
		if strings.Contains(i.Message, "not used") {
			t.Errorf("what was mended is still told of: %+v", i)
		}
	}
}
