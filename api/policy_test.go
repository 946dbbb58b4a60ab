package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// What a tenant's policy does not let its steps have is refused, or clipped
// where the tenant chose that; other tenants are not bounded by it.
func TestTenantPolicy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	r.client("other", "user")
	const body = `{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo","network":"allow","network_allow":["example.com"],"resources":{"cpu":8}}]}}`
	post := func(tenant string) (int, string) {
		t.Helper()
		resp, raw := r.call(http.MethodPost, "/api/runs", r.keys[tenant+" user"], []byte(body))
		return resp.StatusCode, string(raw)
	}
	limits := func(c wire.TenantCeiling, clip bool) {
		t.Helper()
		if err := api.SetTenantCeiling(t.Context(), r.db.Admin, "acme", c, clip); err != nil {
			t.Fatal(err)
		}
	}
	limits(wire.TenantCeiling{Resources: step.Resources{CPU: 2, Pids: 16}, TimeoutMS: 1000}, false)
	status, raw := post("acme")
	for _, want := range []string{"steps[0].resources.cpu", "asks for 8, more than the 2", "steps[0].resources.pids", "steps[0].timeout"} {
		if status != http.StatusForbidden || !strings.Contains(raw, want) {
			t.Errorf("above the ceiling: %d %s, want %s", status, raw, want)
		}
	}
	if status, raw := post("other"); status != http.StatusCreated {
		t.Errorf("another tenant: %d %s", status, raw)
	}
	w.drivers[0].Capabilities = append(w.drivers[0].Capabilities, "net.allow")
	w.register("host")
	w.one() // the other tenant's
	limits(wire.TenantCeiling{Resources: step.Resources{CPU: 2, Pids: 16}, TimeoutMS: 1000}, true)
	if err := api.SetTenantNetwork(t.Context(), r.db.Admin, api.TenantNetwork{Tenant: "acme", Most: "allow", Private: []string{"10.0.0.0/8:5432"}}); err != nil {
		t.Fatal(err)
	}
	if status, raw := post("acme"); status != http.StatusCreated {
		t.Fatalf("clipped: %d %s", status, raw)
	}
	l := w.one()
	if l.Resources.CPU != 2 || l.Resources.Pids != 16 || l.TimeoutMS != 1000 || len(l.Egress.Allow) != 1 || len(l.Egress.Private) != 1 {
		t.Errorf("clipped: %+v", l)
	}
	if err := api.SetTenantNetwork(t.Context(), r.db.Admin, api.TenantNetwork{Tenant: "acme", Most: "none"}); err != nil {
		t.Fatal(err)
	}
	if status, raw := post("acme"); status != http.StatusForbidden || !strings.Contains(raw, "steps[0].network") {
		t.Errorf("no network: %d %s", status, raw)
	}
	for _, bad := range []error{
		api.SetTenantCeiling(t.Context(), r.db.Admin, "nobody", wire.TenantCeiling{}, false),
		api.SetTenantCeiling(t.Context(), r.db.Admin, "acme", wire.TenantCeiling{TimeoutMS: -1}, false),
		api.SetTenantNetwork(t.Context(), r.db.Admin, api.TenantNetwork{Tenant: "acme", Most: "some"}),
		api.SetTenantNetwork(t.Context(), r.db.Admin, api.TenantNetwork{Tenant: "acme", Most: "open", Private: []string{"inner.example.com"}}),
	} {
		if bad == nil {
			t.Error("it was taken")
		}
	}
}

// What attempts used is added up by tool and driver, for their tenant alone.
func TestUsage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	for range 2 {
		r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"exec","inputs":{"argv":["true"]}}]`)
		for range 2 {
			v := exit(0)
			v.Verdict.Usage = step.Usage{WallMS: 10, CPUUsec: 2000, MemoryPeakBytes: int64(100 * (w.claims + 1)), NetTxBytes: 7}
			w.finish(w.one(), v)
		}
	}
	user := r.client("acme", "user")
	got, err := user.Usage(t.Context(), time.Time{}, time.Time{})
	if err != nil || len(got.Rows) != 2 || got.Rows[0].Tool != "exec" || got.Rows[1].Tool != "test:echo" || got.Rows[0].Driver != "local" {
		t.Fatalf("%+v, %v", got, err)
	}
	if x := got.Rows[0]; x.Attempts != 2 || x.WallMS != 20 || x.CPUUsec != 4000 || x.NetTxBytes != 14 || x.MemoryPeakBytes < 200 {
		t.Errorf("%+v", x)
	}
	if got.Total.Attempts != 4 || got.Total.WallMS != 40 || got.Total.MemoryPeakBytes != max(got.Rows[0].MemoryPeakBytes, got.Rows[1].MemoryPeakBytes) {
		t.Errorf("%+v", got.Total)
	}
	if got, err := user.Usage(t.Context(), time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)); err != nil || len(got.Rows) != 0 {
		t.Errorf("another time: %+v, %v", got, err)
	}
	if got, err := r.client("rival", "user").Usage(t.Context(), time.Time{}, time.Time{}); err != nil || got.Total.Attempts != 0 {
		t.Errorf("another tenant: %+v, %v", got, err)
	}
	for _, span := range [][2]time.Time{{time.Now(), time.Now().Add(-time.Hour)}, {time.Now().AddDate(-5, 0, 0), {}}} {
		if _, err := user.Usage(t.Context(), span[0], span[1]); !step.Is(err, step.KindInvalid) {
			t.Errorf("%v: %v", span, err)
		}
	}
}
