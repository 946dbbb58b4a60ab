// Package admission decides whether a driver can do what a step asks of it.
// The API asks before it gives a step away, and the daemon once more before it
// makes a sandbox: a cap that nobody enforces must never look enforced.
package admission

import (
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Needs are the capabilities that a step needs of its driver, in a stable
// order. shares says that it works in the workspace that its run keeps on the
// worker's host.
func Needs(l wire.Lease, shares bool) []driver.Capability {
	var out []driver.Capability
	for _, need := range []struct {
		asked bool
		what  driver.Capability
	}{
		{l.Resources.CPU > 0, driver.CapCPU},
		{l.Resources.MemoryMB > 0, driver.CapMemory},
		{l.Resources.Pids > 0, driver.CapPids},
		{l.Resources.DiskMB > 0, driver.CapDisk},
		{l.Resources.IOMBs > 0, driver.CapBlockIO},
		{l.TimeoutMS > 0, driver.CapWallTime},
		{l.Resources.OutputKB > 0, driver.CapOutput},
		{true, network(l.Network)},
		{l.Command.Isolation == driver.IsolationGVisor && l.Network != "" && l.Network != step.NetworkNone, driver.CapNetGVisor},
		{l.Command.Isolation != "", driver.Capability("isolation." + l.Command.Isolation)},
		{len(l.Command.Files) > 0 || len(l.Artifacts) > 0, driver.CapFiles},
		{shares, driver.CapHost},
		{true, driver.CapLease}, // the daemon bounds every sandbox by its lease: what nobody hears of any more must end
	} {
		if need.asked {
			out = append(out, need.what)
		}
	}
	return out
}

// network is what the driver must be able to do with the step's network. An
// unknown policy is one that no driver has.
func network(n step.Network) driver.Capability {
	switch n {
	case "", step.NetworkNone:
		return driver.CapNetNone
	case step.NetworkAllow:
		return driver.CapNetAllow
	case step.NetworkOpen:
		return driver.CapNetOpen
	}
	return driver.Capability("net." + string(n))
}

// Missing is the first capability that a step needs and the driver has not;
// "" when it has all.
func Missing(l wire.Lease, shares bool, have driver.Capabilities) driver.Capability {
	for _, need := range Needs(l, shares) {
		if !have.Has(need) {
			return need
		}
	}
	return ""
}
