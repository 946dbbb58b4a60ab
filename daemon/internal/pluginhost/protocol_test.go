package pluginhost

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	plugin "github.com/hashicorp/go-plugin"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// protocols are the test plugins that do not serve what driverrpc serves, by
// name. A version that is not known yet is as the newest. "dumb" does not
// describe itself.
var protocols = map[string][]int{
	"speaks-0": {0}, "speaks-1": {1}, "speaks-3": {3}, "speaks-2-and-3": {2, 3}, "speaks-3-and-4": {3, 4}, "dumb": {4, 5, 6}, "speaks-99": {99},
}

func serveVersions(d driver.Driver, versions []int) {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: driverrpc.Handshake(), VersionedPlugins: driverrpc.Plugins(d, versions...), GRPCServer: plugin.DefaultGRPCServer,
	})
}

// counting is a driver that is Metered, well or badly.
type counting struct{ faulty }

func (c counting) Metrics(context.Context) ([]driver.Sample, error) {
	made := driver.Sample{Name: driver.SamplePrefix(c.fault) + "made_total", Kind: driver.Counter, Value: 7}
	switch c.fault {
	case "metered-hang":
		select {}
	case "metered-nonsense":
		made.Name = "nofx_daemon_claims_total"
	case "metered-much":
		return slices.Repeat([]driver.Sample{made}, driver.MaxSamples+1), nil
	}
	return []driver.Sample{made}, nil
}

func (r *rig) metrics(t *testing.T, name string) ([]driver.Sample, error) {
	t.Helper()
	d, err := r.Driver(name)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := d.(driver.Metered)
	if !ok {
		t.Fatal("a driver of the host is not Metered")
	}
	return m.Metrics(bg(t))
}

// speaks wants a plugin to run a step in this version, with the metrics that
// come with it.
func (r *rig) speaks(t *testing.T, name, version string, want int) {
	t.Helper()
	r.echo(t, name)
	if got := r.infoOf(t, name, "healthy", healthy).Protocol; got != want {
		t.Errorf("%s: protocol version %d, want %d", name, got, want)
	}
	r.log.until(t, `"msg":"plugin started","driver":"`+name+`"`)
	if !slices.ContainsFunc(strings.Split(r.log.String(), "\n"), func(line string) bool {
		return strings.Contains(line, `"plugin started","driver":"`+name+`"`) && strings.Contains(line, `"protocol":`+version+`,`)
	}) {
		t.Errorf("%s: the log does not say that it speaks %s", name, version)
	}
	samples, err := r.metrics(t, name)
	if want == 1 {
		if !step.Is(err, step.KindUnsupported) {
			t.Errorf("%s: metrics in version 1: %v, %v", name, samples, err)
		}
		return
	}
	made := []driver.Sample{{Name: driver.SamplePrefix(name) + "made_total", Kind: driver.Counter, Value: 7}}
	if err != nil || !cmp.Equal(samples, made) {
		t.Errorf("%s: metrics in version 2: %v, %v", name, samples, err)
	}
}

// A plugin one version older, one as new and one newer run side by side. Those
// that have no version of ours are refused by name and harm nobody.
func TestProtocolVersions(t *testing.T) {
	t.Parallel()
	seen := &watcher{}
	refused := map[string]string{"speaks-0": "0", "speaks-3": "3", "speaks-3-and-4": "3 and 4", "dumb": "4", "speaks-99": "99"}
	names := []string{"metered", "speaks-1", "speaks-2-and-3", "speaks-0", "speaks-3", "speaks-3-and-4", "dumb", "speaks-99"}
	r := start(t, names, func(c *Config) { c.Observer = seen })
	r.speaks(t, "speaks-1", "1", 1)
	r.speaks(t, "metered", "2", 2)
	r.speaks(t, "speaks-2-and-3", "2", 2)
	for name, theirs := range refused {
		why := "the plugin speaks " + theirs + ", this daemon 1 and 2"
		info := r.infoOf(t, name, "refused", func(i wire.DriverInfo) bool { return strings.HasPrefix(i.Message, "quarantined") })
		if !strings.Contains(info.Message, why) || info.Protocol != 0 || info.Healthy {
			t.Errorf("%s: %+v, want %q", name, info, why)
		}
		r.log.until(t, `"msg":"the plugin is refused","driver":"`+name+`","reason":"protocol","err":"protocol version: `+why+`"`)
		if got := seen.refusals(name)[name]; got != "protocol" {
			t.Errorf("%s: counted as %q", name, got)
		}
	}
	r.speaks(t, "speaks-1", "1", 1)
	r.speaks(t, "metered", "2", 2)
}

// A daemon that is one version older runs the plugins of today, and refuses
// those that have dropped its version.
func TestOlderHost(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"metered", "speaks-1", "speaks-2-and-3"}, func(c *Config) { c.Protocols = []int{1} })
	r.speaks(t, "metered", "1", 1)
	r.speaks(t, "speaks-1", "1", 1)
	info := r.infoOf(t, "speaks-2-and-3", "refused", func(i wire.DriverInfo) bool { return strings.HasPrefix(i.Message, "quarantined") })
	if want := "the plugin speaks 2 and 3, this daemon 1"; !strings.Contains(info.Message, want) {
		t.Errorf("%q, want %q", info.Message, want)
	}
	cfg := r.cfg
	cfg.Protocols = []int{3}
	if _, err := New(cfg); !step.Is(err, step.KindInvalid) {
		t.Errorf("a host of version 3: %v", err)
	}
}

func TestMetricsAreChecked(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"metered", "metered-nonsense", "metered-much", "metered-hang", "memory"})
	for name, kind := range map[string]step.Kind{
		"metered-nonsense": step.KindInternal, "metered-much": step.KindInternal, "memory": step.KindUnsupported,
	} {
		if samples, err := r.metrics(t, name); !step.Is(err, kind) || samples != nil {
			t.Errorf("%s: %v, %v, want %s", name, samples, err, kind)
		}
		r.echo(t, name)
	}
	d, err := r.Driver("metered-hang")
	if err != nil {
		t.Fatal(err)
	}
	r.echo(t, "metered-hang")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if samples, err := d.(driver.Metered).Metrics(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a plugin that hangs: %v, %v", samples, err)
	}
	r.echo(t, "metered-hang")
	r.speaks(t, "metered", "2", 2)
}
