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
// the driver then refuses with unsupported, and is skipped. One that cannot tell
// whether the driver does what it declares is skipped too, and begins its reason
// with "not judged".
//
// The cases are in package suite, which `nofx driver-sanity` runs on any plugin
// from outside.
package drivertest

import (
	"encoding/json"
	"testing"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/suite"
)

// T is what a case reports to; *testing.T is one.
type T = suite.T

// Programs are the argument lists of small programs, for whatever the sandbox
// can run.
type Programs = suite.Programs

// Shell gives programs for a sandbox with a POSIX shell and the usual tools.
func Shell() Programs { return suite.Shell() }

// InMemory gives programs for package memdriver.
func InMemory() Programs { return suite.InMemory() }

// InMemoryNetwork is a network for package memdriver.
func InMemoryNetwork(*testing.T) Network {
	n := suite.InMemoryNetwork()
	return Network{Servers: n.Servers, Other: n.Other, Private: n.Private}
}

// FloodBytes is what Programs.Flood writes: the decimal numbers from 1, a line
// each, cut off after n bytes.
func FloodBytes(n int64) []byte { return suite.FloodBytes(n) }

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

	// Network gives a case a network with servers that its sandboxes can call:
	// without one a driver's networks are not judged. nil = there is none.
	Network func(t *testing.T) Network

	// Patience multiplies the times that the suite waits; 0 = 1.
	Patience float64
}

// Network is a network of the test's own with servers in it, for no test calls
// what is not its own.
type Network struct {
	// Open starts a driver whose sandboxes call into it; nil = Factory.Open.
	Open func(t *testing.T) Instance
	// Servers are two TCP servers, ADDRESS:PORT, that the driver takes for hosts
	// on the Internet. Each says a line to whoever connects.
	Servers [2]string
	// Other is one more, at the first one's address and another port. "" = there
	// is none.
	Other string
	// Private is another, at an address that is not on the Internet: nobody may
	// call it but with leave (Egress.Private). "" = there is none.
	Private string
}

// Instance is one running driver.
type Instance struct {
	// Driver is a client of it, through the wire.
	Driver driver.Driver
	// Restart kills the driver's process, starts another and gives a client of
	// that. A driver with CapReattach must have it.
	Restart func(t *testing.T) driver.Driver
}

// Exercise runs the suite. Each case is a parallel subtest, but for those that
// need the machine for themselves: they come first.
func Exercise(t *testing.T, f Factory) {
	t.Helper()
	for _, c := range suite.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			if !c.Alone {
				t.Parallel()
			}
			c.Run(t, f.on(t))
		})
	}
}

// on is f for the cases of t.
func (f Factory) on(t *testing.T) suite.Factory {
	out := suite.Factory{
		Config: f.Config, Caps: f.Caps, Programs: f.Programs, Env: f.Env, OutsideDir: f.OutsideDir, Patience: f.Patience,
		Open: func(suite.T) suite.Instance { return f.Open(t).on(t) },
	}
	if f.Network != nil {
		out.Network = func(suite.T) suite.Network {
			n := f.Network(t)
			on := suite.Network{Servers: n.Servers, Other: n.Other, Private: n.Private}
			if n.Open != nil {
				on.Open = func(suite.T) suite.Instance { return n.Open(t).on(t) }
			}
			return on
		}
	}
	if f.Spec != nil {
		out.Spec = func(_ suite.T, s *driver.Spec) { f.Spec(t, s) }
	}
	return out
}

// on is in for the cases of t.
func (in Instance) on(t *testing.T) suite.Instance {
	out := suite.Instance{Driver: in.Driver}
	if in.Restart != nil {
		out.Restart = func(suite.T) driver.Driver { return in.Restart(t) }
	}
	return out
}
