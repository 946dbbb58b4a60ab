package container

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/nofx-run/nofx/internal/testhost"
	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
)

// housed gives a sandbox with a disk cap the workspace that the daemon would.
type housed struct {
	driver.Driver
	t    *testing.T
	host *testhost.Host
}

func (h housed) Create(ctx context.Context, s driver.Spec) (driver.Handle, error) {
	if s.Host != nil && s.Resources.DiskMB < 1<<20 {
		h.host.Workspace(h.t, &s)
	}
	return h.Driver.Create(ctx, s)
}

// TestConformance runs the drivers' suite through real gRPC, on a real engine.
// The caps are the engine's: the daemon's part only makes the group.
func TestConformance(t *testing.T) {
	t.Parallel()
	conform(t, config(t), 4, func(*driver.Spec) {})
}

// With a kernel of its own a sandbox does all that it does without.
func TestConformanceGVisor(t *testing.T) {
	t.Parallel()
	conform(t, config(t, withGVisor), 8, underRunsc)
}

func withGVisor(c *Config) { c.GVisorRuntime = "runsc" }

func underRunsc(s *driver.Spec) { s.Isolation = driver.IsolationGVisor }

func conform(t *testing.T, config json.RawMessage, patience float64, change func(*driver.Spec)) {
	h := testhost.New()
	open := func(t *testing.T, wrap func(driver.Driver) driver.Driver) drivertest.Instance {
		d := newDriver()
		client, stop := drivertest.Serve(t, wrap(d))
		t.Cleanup(func() { stop(); d.Close() })
		return drivertest.Instance{Driver: housed{client, t, h}, Restart: func(t *testing.T) driver.Driver {
			stop()
			d.Close()
			d = newDriver()
			client, stop = drivertest.Serve(t, wrap(d))
			return housed{client, t, h}
		}}
	}
	drivertest.Exercise(t, drivertest.Factory{
		Config:   config,
		Programs: drivertest.Shell(),
		Patience: patience,
		Caps:     true,
		Spec: func(t *testing.T, s *driver.Spec) {
			if s.Isolation == "" {
				change(s)
			}
			h.Fill(t, s)
		},
		Open: func(t *testing.T) drivertest.Instance {
			return open(t, func(d driver.Driver) driver.Driver { return d })
		},
		Network: func(t *testing.T) drivertest.Network {
			w := testnet.New(t)
			servers, other, private := w.Greeters(t)
			return drivertest.Network{Servers: servers, Other: other, Private: private, Open: func(t *testing.T) drivertest.Instance {
				return open(t, func(d driver.Driver) driver.Driver { return within{d, t, w} })
			}}
		},
	})
}

// within makes sandboxes whose host is that of a world.
type within struct {
	driver.Driver
	t     *testing.T
	world *testnet.Net
}

func (w within) Create(ctx context.Context, s driver.Spec) (driver.Handle, error) {
	return testnet.Within(w.t, w.world.Host(), func() (driver.Handle, error) { return w.Driver.Create(ctx, s) })
}
