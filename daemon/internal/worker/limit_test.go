package worker

import (
	"slices"
	"strings"
	"sync"
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
	// What nobody asked for is lowered and no reason to refuse; the rest is not
	// touched, and an older API does not tell them apart.
	w.cfg.Most, w.cfg.Default = step.Resources{CPU: 2, MemoryMB: 512, Pids: 16, DiskMB: 64, IOMBs: 5, OutputKB: 10}, step.Resources{}
	much := wire.Lease{Resources: step.Resources{CPU: 4, MemoryMB: 1024, Pids: 32, DiskMB: 128, IOMBs: 50, OutputKB: 100}, TimeoutMS: 90_000}
	none := much
	none.Defaults = []string{"cpu", "memory_mb", "pids", "disk_mb", "io_mb_s", "output_kb", "timeout"}
	if got := w.bound(none); got.Resources != w.cfg.Most || got.TimeoutMS != 60_000 || w.tooMuch(got) != nil {
		t.Errorf("nothing was asked for: %+v, %v", got, w.tooMuch(got))
	}
	some := much
	some.Defaults = []string{"cpu", "timeout"}
	if got := w.bound(some); got.Resources.CPU != 2 || got.TimeoutMS != 60_000 || got.Resources.MemoryMB != 1024 || !strings.Contains(w.tooMuch(got).Error(), "memory_mb: the step asks for 1024") {
		t.Errorf("some was asked for: %+v, %v", got, w.tooMuch(got))
	}
	if got := w.bound(much); got.Resources != much.Resources || !step.Is(w.tooMuch(got), step.KindForbidden) {
		t.Errorf("of an older API: %+v, %v", got, w.tooMuch(got))
	}
	if err := (&Worker{}).tooMuch(wire.Lease{Resources: step.Resources{CPU: 1000}, Network: step.NetworkOpen}); err != nil {
		t.Error(err)
	}
}

// What a sandbox was made with holds to its end, also when the next process of the
// daemon gives less.
func TestLimitsLoweredInMidStep(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.limit = step.Resources{Pids: 64, OutputKB: 512} })
	l := lease("a", "mem", "count", "60", "0.01")
	l.Resources, l.Defaults = step.Resources{Pids: 128}, []string{"pids"}
	r.api.submit(l)
	r.api.until("output", func() bool { return len(r.api.attempts["a"].output) > 0 })
	r.kill()
	r.limit = step.Resources{Pids: 8, OutputKB: 1}
	r.start(4)
	var got step.Resources
	r.api.until("it is taken up", func() bool {
		a := r.w.held("a")
		if a != nil {
			got = a.lease.Resources
		}
		return a != nil
	})
	if got != (step.Resources{Pids: 64, OutputKB: 512}) {
		t.Errorf("%+v", got)
	}
	if v := r.api.verdict("a").verdict.Verdict; !v.Success() {
		t.Errorf("%+v", v)
	}
	r.left()
}

// The default of block io is the driver's to hold, and when it cannot, the step
// goes on without; one that asked for it does not.
func TestDefaultIO(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var tried []int64
	most, kind := int64(1000), step.KindInternal
	r := newRig(t, func(r *rig) {
		r.usual = step.Resources{IOMBs: 500}
		r.plugins.works = func(string, string) error { return nil }
		r.plugins.takes = func(got step.Resources) error {
			mu.Lock()
			defer mu.Unlock()
			tried = append(tried, got.IOMBs)
			if got.IOMBs > most {
				return step.Errorf(kind, "no such device")
			}
			return nil
		}
	})
	for _, c := range []struct {
		id          string
		asked, most int64
		kind        step.Kind
		cause       step.Cause
		tried       []int64
	}{
		{"a", 0, 1000, step.KindInternal, step.CauseExit, []int64{500}},
		{"b", 0, 0, step.KindInternal, step.CauseExit, []int64{500, 0}},
		{"c", 700, 1000, step.KindInternal, step.CauseExit, []int64{700}},
		{"d", 700, 0, step.KindInternal, step.CauseDriverError, []int64{700}},
		{"e", 0, 0, step.KindInvalid, step.CauseExit, []int64{500, 0}},
		{"f", 0, 0, step.KindUnsupported, step.CauseExit, []int64{500, 0}},
		// What no bound can be the reason of, such as an image that is not there.
		{"g", 0, 0, step.KindNotFound, step.CauseDriverError, []int64{500}},
		{"h", 0, 0, step.KindConflict, step.CauseDriverError, []int64{500}},
		{"i", 0, 0, step.KindForbidden, step.CauseDriverError, []int64{500}},
		{"j", 0, 0, step.KindRateLimited, step.CauseDriverError, []int64{500}},
		{"k", 0, 0, step.KindTooLarge, step.CauseDriverError, []int64{500}},
		{"l", 0, 0, step.KindUnavailable, step.CauseDriverError, []int64{500}},
	} {
		mu.Lock()
		tried, most, kind = nil, c.most, c.kind
		mu.Unlock()
		l := lease(c.id, "true")
		l.Resources.IOMBs = c.asked
		r.api.submit(l)
		v := r.api.verdict(c.id).verdict.Verdict
		mu.Lock()
		if v.Cause != c.cause || !slices.Equal(tried, c.tried) {
			t.Errorf("%s: %s, with %v: %+v", c.id, v, tried, v)
		}
		mu.Unlock()
	}
	r.left()
}
