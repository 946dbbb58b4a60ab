package memdriver_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// factory opens in-memory drivers with the given capabilities, each over a
// world of its own.
func factory(caps driver.Capabilities) drivertest.Factory {
	return drivertest.Factory{
		Programs: drivertest.InMemory(),
		Network:  drivertest.InMemoryNetwork,
		Open: func(t *testing.T) drivertest.Instance {
			w := memdriver.NewWorld()
			t.Cleanup(w.Close)
			client, stop := drivertest.Serve(t, memdriver.New(w, memdriver.Options{Capabilities: caps}))
			t.Cleanup(func() { stop() })
			return drivertest.Instance{
				Driver: client,
				Restart: func(t *testing.T) driver.Driver {
					stop()
					client, stop = drivertest.Serve(t, memdriver.New(w, memdriver.Options{Capabilities: caps}))
					return client
				},
			}
		},
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	drivertest.Exercise(t, factory(nil))
}

// A driver that can do next to nothing must still keep what it promises, and
// refuse the rest.
func TestConformanceOfALesserDriver(t *testing.T) {
	t.Parallel()
	drivertest.Exercise(t, factory(driver.Capabilities{driver.CapNetNone, driver.CapFiles}))
}

func TestConformanceOfTheLeastDriver(t *testing.T) {
	t.Parallel()
	drivertest.Exercise(t, factory(driver.Capabilities{}))
}
