package worker

import (
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func TestLimit(t *testing.T) {
	t.Parallel()
	w := &Worker{cfg: Config{Most: step.Resources{CPU: 2, MemoryMB: 512, DiskMB: 64}, MostTime: time.Minute, MostNet: step.NetworkAllow}}
	l := wire.Lease{Resources: step.Resources{CPU: 1.5, Pids: 9}, TimeoutMS: 1000, Network: step.NetworkAllow}
	if err := w.tooMuch(l); err != nil {
		t.Fatal(err)
	}
	l = w.bound(l)
	if want := (step.Resources{CPU: 1.5, MemoryMB: 512, Pids: 9, DiskMB: 64}); l.Resources != want || l.TimeoutMS != 1000 {
		t.Errorf("%+v, want %+v", l.Resources, want)
	}
	// What a host gives usually counts beside its most, and alone is no cap that a
	// driver would have to have.
	w.cfg.Default = step.Resources{DiskMB: 32, IOMBs: 5}
	if got := w.bound(wire.Lease{}).Resources; got.DiskMB != 32 || got.IOMBs != 0 {
		t.Errorf("with defaults: %+v", got)
	}
	if got := w.bound(wire.Lease{Resources: step.Resources{DiskMB: 48}}).Resources.DiskMB; got != 48 {
		t.Errorf("who asks for more than the default has %d", got)
	}
	w.cfg.Default.DiskMB = 1000
	if got := w.bound(wire.Lease{}).Resources.DiskMB; got != 64 {
		t.Errorf("with a default above the most: %d", got)
	}
	for want, l := range map[string]wire.Lease{
		"cpu: the step asks for 2.5, more than the 2 ":           {Resources: step.Resources{CPU: 2.5}},
		"memory_mb: the step asks for 513, more than the 512":    {Resources: step.Resources{MemoryMB: 513}},
		"network: the step asks for open, more than the allow ":  {Network: step.NetworkOpen},
		"timeout: the step asks for 60001, more than the 60000 ": {TimeoutMS: 60001},
	} {
		if err := w.tooMuch(l); !step.Is(err, step.KindForbidden) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := (&Worker{}).tooMuch(wire.Lease{Resources: step.Resources{CPU: 1000}, Network: step.NetworkOpen}); err != nil {
		t.Error(err)
	}
}
