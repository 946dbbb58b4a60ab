package worker

import (
	"math"
	"strconv"
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

// The cap on output is the driver's to enforce. One that does not fills no disk: the
// attempt ends, and with it what runs.
func TestOutputOfABadDriver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugins.unbound = true
	l := lease("a", "mem", "flood", strconv.Itoa(4<<20))
	l.Resources.OutputKB, l.OnOutput = 64, step.OutputTruncate
	r.api.submit(l)
	a := r.api.verdict("a")
	if v := a.verdict.Verdict; v.Cause != step.CauseDriverError || !strings.Contains(v.Message, "more than the 65536 bytes of output that the step may have") {
		t.Errorf("%s", v)
	}
	stored := 0
	for _, rec := range a.records {
		if rec.Output != nil {
			stored += len(rec.Output.Data)
		}
	}
	if stored > 64<<10+overOutput {
		t.Errorf("%d bytes are stored", stored)
	}
	r.left()
}
