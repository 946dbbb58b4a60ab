package worker

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// The daemon makes no sandbox for a step that the driver cannot keep to its
// caps, whatever the API thought.
func TestDriverLacksACapability(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := lease("a", "true")
	l.Command.Isolation = "vm"
	r.api.submit(l)
	a := r.api.verdict("a")
	if v := a.verdict.Verdict; v.Cause != step.CauseDriverError || v.ErrorKind != step.KindUnsupported || v.Message != "driver memory: lacks the capability isolation.vm" {
		t.Errorf("%+v", v)
	}
	if diff := cmp.Diff([]wire.RecordType{wire.RecordVerdict}, types(a)); diff != "" {
		t.Error(diff)
	}
	r.left()
}

// The API hears that a driver is well again before it is asked for its work,
// however long the next heartbeat takes.
func TestDriverComesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) {
		r.plugins.sick = true
		r.api.leaseMS, r.api.heartbeatMS = 2000, 600_000
	})
	r.api.until("a worker", func() bool { return len(r.api.drivers) == 1 && !r.api.drivers[0].Healthy })
	r.plugins.mu.Lock()
	r.plugins.sick = false
	r.plugins.mu.Unlock()
	r.api.until("news of the driver", func() bool { return r.api.drivers[0].Healthy })
	r.api.submit(lease("a", "true"))
	r.api.verdict("a")
	r.left()
	r.api.change(func() {
		if r.api.untold > 0 {
			t.Errorf("%d claims for a driver that the API did not know to be well", r.api.untold)
		}
	})
}
