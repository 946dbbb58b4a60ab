package admission

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func TestNeeds(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		lease  wire.Lease
		shares bool
		want   []driver.Capability
	}{
		"nothing":     {wire.Lease{}, false, []driver.Capability{driver.CapNetNone, driver.CapLease}},
		"cpu":         {wire.Lease{Resources: step.Resources{CPU: 0.5}}, false, []driver.Capability{driver.CapCPU, driver.CapNetNone, driver.CapLease}},
		"memory":      {wire.Lease{Resources: step.Resources{MemoryMB: 1}}, false, []driver.Capability{driver.CapMemory, driver.CapNetNone, driver.CapLease}},
		"pids":        {wire.Lease{Resources: step.Resources{Pids: 1}}, false, []driver.Capability{driver.CapPids, driver.CapNetNone, driver.CapLease}},
		"disk":        {wire.Lease{Resources: step.Resources{DiskMB: 1}}, false, []driver.Capability{driver.CapDisk, driver.CapNetNone, driver.CapLease}},
		"output":      {wire.Lease{Resources: step.Resources{OutputKB: 1}}, false, []driver.Capability{driver.CapOutput, driver.CapNetNone, driver.CapLease}},
		"wall time":   {wire.Lease{TimeoutMS: 1}, false, []driver.Capability{driver.CapWallTime, driver.CapNetNone, driver.CapLease}},
		"allow":       {wire.Lease{Network: step.NetworkAllow}, false, []driver.Capability{driver.CapNetAllow, driver.CapLease}},
		"open":        {wire.Lease{Network: step.NetworkOpen}, false, []driver.Capability{driver.CapNetOpen, driver.CapLease}},
		"odd network": {wire.Lease{Network: "some"}, false, []driver.Capability{"net.some", driver.CapLease}},
		"a level":     {wire.Lease{Command: wire.Command{Isolation: "gvisor"}}, false, []driver.Capability{driver.CapNetNone, driver.CapIsolationGVisor, driver.CapLease}},
		"the weaker":  {wire.Lease{Command: wire.Command{Isolation: "namespace"}}, false, []driver.Capability{driver.CapNetNone, driver.CapIsolationNamespace, driver.CapLease}},
		"odd level":   {wire.Lease{Command: wire.Command{Isolation: "x"}}, false, []driver.Capability{driver.CapNetNone, "isolation.x", driver.CapLease}},
		"both":        {wire.Lease{Network: step.NetworkOpen, Command: wire.Command{Isolation: "gvisor"}}, false, []driver.Capability{driver.CapNetOpen, driver.CapNetGVisor, driver.CapIsolationGVisor, driver.CapLease}},
		"files":       {wire.Lease{Command: wire.Command{Files: make([]wire.CommandFile, 1)}}, false, []driver.Capability{driver.CapNetNone, driver.CapFiles, driver.CapLease}},
		"artifacts":   {wire.Lease{Artifacts: []string{"x"}}, false, []driver.Capability{driver.CapNetNone, driver.CapFiles, driver.CapLease}},
		"workspace":   {wire.Lease{}, true, []driver.Capability{driver.CapNetNone, driver.CapHost, driver.CapLease}},
	} {
		if diff := cmp.Diff(tc.want, Needs(tc.lease, tc.shares)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Each capability is missed when it alone is not there.
func TestMissing(t *testing.T) {
	t.Parallel()
	l := wire.Lease{
		Resources: step.Resources{CPU: 1, MemoryMB: 1, Pids: 1, DiskMB: 1, OutputKB: 1}, TimeoutMS: 1,
		Network: step.NetworkNone, Artifacts: []string{"x"}, Command: wire.Command{Isolation: "gvisor"},
	}
	all := driver.Capabilities(Needs(l, true))
	if got := Missing(l, true, all); got != "" {
		t.Errorf("with all of them: %s is missing", got)
	}
	for i, c := range all {
		if got := Missing(l, true, slices.Delete(slices.Clone(all), i, i+1)); got != c {
			t.Errorf("without %s: %q is missing", c, got)
		}
	}
}
