// Package drivertest is the conformance suite of drivers: Exercise checks every
// promise of package driver through a client of the driver, as the daemon sees
// it. A driver that passes is finished.
//
// A driver's own test is a Factory and one call:
//
//	func TestConformance(t *testing.T) {
//		drivertest.Exercise(t, drivertest.Factory{
//			Open: func(t *testing.T) drivertest.Instance {
//				return drivertest.Instance{Driver: drivertest.Connect(t, local.New())}
//			},
//			Programs: drivertest.Shell(),
//		})
//	}
//
// A case that needs a capability which the driver does not declare checks that
// the driver then refuses with unsupported, and is skipped.
package drivertest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
)

// Factory says how to come by a driver and what to run in it.
type Factory struct {
	// Open starts a driver. It is called for every case; the drivers of cases
	// that run side by side may share whatever their sandboxes live in. What
	// it starts it ends in t.Cleanup.
	Open func(t *testing.T) Instance

	// Config is the driver's configuration; empty = {}.
	Config json.RawMessage

	// Spec completes the spec of a new sandbox: the image, and for drivers with
	// CapHost the cgroup, the uids and the workspace. The suite has set ID and
	// Tags. What it makes it removes in t.Cleanup, which runs after the suite
	// has destroyed the sandbox. nil = nothing to add.
	Spec func(t *testing.T, spec *driver.Spec)

	// Caps says that Spec gives the sandbox's cgroup the limits of
	// spec.Resources. Drivers with CapHost are exercised on them only then; the
	// others enforce them themselves.
	Caps bool

	// Programs are what the sandbox runs.
	Programs Programs

	// Env is the environment of every exec; nil = a PATH of the usual folders.
	Env []string

	// OutsideDir is a folder that exists outside every sandbox and that the
	// driver's process could write to, on the host that the test sees: a way
	// out of a sandbox is proved by what appears in it. "" = a temporary one.
	OutsideDir string

	// Patience multiplies the times that the suite waits; 0 = 1.
	Patience float64
}

// Instance is one running driver.
type Instance struct {
	// Driver is a client of it, through the wire.
	Driver driver.Driver
	// Restart kills the driver's process, starts another and gives a client of
	// that. A driver with CapReattach must have it.
	Restart func(t *testing.T) driver.Driver
}

// Exercise runs the suite. Each case is a parallel subtest.
func Exercise(t *testing.T, f Factory) {
	t.Helper()
	if f.Env == nil {
		f.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	if f.Patience == 0 {
		f.Patience = 1
	}
	if len(f.Config) == 0 {
		f.Config = json.RawMessage(`{}`)
	}
	for _, group := range [][]testCase{describeCases(), createCases(), execCases(), outputCases(), endCases(), lifeCases(), fileCases(), capCases(), hostCases()} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, open(t, f))
			})
		}
	}
}

// testCase is one promise.
type testCase struct {
	name string
	run  func(t *testing.T, fx *fixture)
}

// long is how long anything that should happen soon may take.
func (f Factory) long() time.Duration { return time.Duration(f.Patience * float64(30*time.Second)) }
