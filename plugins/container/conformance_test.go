package container

import (
	"testing"

	"github.com/nofx-run/nofx/internal/testhost"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
)

// TestConformance runs the drivers' suite through real gRPC, on a real engine.
// The caps are the engine's: the daemon's part only makes the group.
func TestConformance(t *testing.T) {
	t.Parallel()
	h := testhost.New()
	drivertest.Exercise(t, drivertest.Factory{
		Config:   config(t),
		Programs: drivertest.Shell(),
		Patience: 4,
		Caps:     true,
		Spec:     func(t *testing.T, s *driver.Spec) { h.Fill(t, s) },
		Open: func(t *testing.T) drivertest.Instance {
			d := newDriver()
			client, stop := drivertest.Serve(t, d)
			t.Cleanup(func() { stop(); d.Close() })
			return drivertest.Instance{Driver: client, Restart: func(t *testing.T) driver.Driver {
				stop()
				d.Close()
				d = newDriver()
				client, stop = drivertest.Serve(t, d)
				return client
			}}
		},
	})
}
