package local

import (
	"testing"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
)

// TestConformance runs the drivers' suite through real gRPC.
func TestConformance(t *testing.T) {
	t.Parallel()
	h := newHost()
	drivertest.Exercise(t, drivertest.Factory{
		Config:   config(t),
		Programs: drivertest.Shell(),
		Patience: 2,
		Spec:     func(t *testing.T, s *driver.Spec) { h.fill(t, s) },
		Open: func(t *testing.T) drivertest.Instance {
			d := New()
			client, stop := drivertest.Serve(t, d)
			t.Cleanup(func() { stop(); d.Close() })
			return drivertest.Instance{Driver: client, Restart: func(t *testing.T) driver.Driver {
				stop()
				d.Close()
				d = New()
				client, stop = drivertest.Serve(t, d)
				return client
			}}
		},
	})
}
