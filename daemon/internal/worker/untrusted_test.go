package worker

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// A driver that lists what another installation has does not have a sweep destroy
// that; what is ours and nobody has any more goes.
func TestSweepSparesOtherOwners(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.submit(lease("a", "sh", "-c", "echo out")) // by then it is registered
	r.api.verdict("a")
	r.left()
	owner, err := r.w.installation()
	if err != nil || owner == "" {
		t.Fatal(owner, err)
	}
	var also []driver.Listed
	for id, owner := range map[string]string{"theirs": "another-installation", "ours": owner} {
		tags := driver.Tags{Owner: owner, ID: "x"}
		h, err := r.plugins.Driver.Create(t.Context(), driver.Spec{ID: id, Tags: tags, Network: step.NetworkNone})
		if err != nil {
			t.Fatal(err)
		}
		also = append(also, driver.Listed{Handle: h, Tags: tags, Phase: driver.PhaseCreated, CreatedAt: time.Now().Add(-time.Hour)})
	}
	r.plugins.mu.Lock()
	r.plugins.also = also
	r.plugins.mu.Unlock()
	swept := ""
	for _, i := range r.w.Sweep(t.Context(), false).Items {
		swept += " " + i.Name
	}
	if swept != " ours" || r.plugins.world.Len() != 1 {
		t.Errorf("swept%s; %d sandboxes are left, want the other owner's", swept, r.plugins.world.Len())
	}
	for _, l := range also {
		if err := r.plugins.Driver.Destroy(t.Context(), l.Handle); err != nil {
			t.Error(err)
		}
	}
}

// What a driver says of an exit is made fit for the record that it ends in: the API
// refuses one that is not, and the step's own end would be lost with it.
func TestVerdictOfABadDriver(t *testing.T) {
	t.Parallel()
	v := verdict(&driver.Exit{Cause: step.CauseExit, Attested: step.AttestedKernel, Message: strings.Repeat("x", 4000),
		Usage:       step.Usage{WallMS: 7, CPUUsec: math.MaxInt64, MemoryPeakBytes: -1, NetRxBytes: math.MinInt64, PidsPeak: 3},
		OutputBytes: -5, TotalBytes: math.MaxInt64})
	if len(v.Message) > 1010 || v.Usage != (step.Usage{WallMS: 7, PidsPeak: 3}) || v.Output.StoredBytes != 0 || v.Output.TotalBytes != 0 {
		t.Errorf("%+v", v)
	}
}
