package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A lease tells which of its caps nobody asked for: a host that gives less of
// those gives that, and refuses the others.
func TestDefaultsTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	w.drivers[0].Capabilities = append(w.drivers[0].Capabilities, "cap.disk", "cap.blockio")
	w.register("host")
	told := func(what, step string, want ...string) {
		t.Helper()
		run := r.submit(step)
		l := w.one()
		if diff := cmp.Diff(want, l.Defaults); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
		w.finish(l, exit(0))
		if s := r.run(run.ID).Steps[0]; s.Resources != l.Resources || s.TimeoutMS != l.TimeoutMS {
			t.Errorf("%s: the run says %+v", what, s)
		}
	}
	told("nothing", `[{"name":"a","tool":"test:echo"}]`, "cpu", "memory_mb", "pids", "output_kb", "timeout")
	told("some", `[{"name":"a","tool":"test:echo","resources":{"cpu":1,"disk_mb":64},"timeout":30000}]`, "memory_mb", "pids", "output_kb")
	told("a profile", `[{"name":"a","tool":"test:echo","profile":"small"}]`, "timeout")
	told("a timeout in the inputs", `[{"name":"a","tool":"exec","inputs":{"argv":["true"],"timeout":5000}}]`, "cpu", "memory_mb", "pids", "output_kb")
	told("all", `[{"name":"a","tool":"test:echo","profile":"heavy","resources":{"io_mb_s":5},"timeout":1000}]`)

	// What a tenant's ceiling gives a step nobody asked for; what it clips was.
	ceiling := wire.TenantCeiling{Resources: step.Resources{CPU: 2, DiskMB: 64, IOMBs: 9}, TimeoutMS: 1000}
	if err := api.SetTenantCeiling(t.Context(), r.db.Admin, "acme", ceiling, true); err != nil {
		t.Fatal(err)
	}
	told("with a ceiling", `[{"name":"a","tool":"test:echo","resources":{"cpu":8}}]`, "memory_mb", "pids", "disk_mb", "io_mb_s", "output_kb", "timeout")
}
