package api_test

import (
	"math"
	"net/http"
	"strconv"
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
	for _, want := range []string{"steps[0].resources.cpu", "asks for 8, more than the 2"} {
		if status != http.StatusForbidden || !strings.Contains(raw, want) {
			t.Errorf("above the ceiling: %d %s, want %s", status, raw, want)
		}
	}
	if strings.Contains(raw, "pids") || strings.Contains(raw, "timeout") {
		t.Errorf("what is its tool's default counts as its own request: %s", raw)
	}
	plain := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	if s := r.run(plain.ID).Steps[0]; s.Resources.CPU != 1 || s.Resources.Pids != 16 || s.TimeoutMS != 1000 {
		t.Errorf("the tool's defaults, lowered: %+v", s)
	}
	if l := w.one(); l.Resources.CPU != 1 || l.Resources.Pids != 16 || l.TimeoutMS != 1000 {
		t.Errorf("the tool's defaults, lowered: %+v", l)
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
		api.SetTenantCeiling(t.Context(), r.db.Admin, "acme", wire.TenantCeiling{Resources: step.Resources{CPU: 0.001}}, false),
		api.SetTenantCeiling(t.Context(), r.db.Admin, "acme", wire.TenantCeiling{Resources: step.Resources{DiskMB: 7}}, false),
		api.SetTenantNetwork(t.Context(), r.db.Admin, api.TenantNetwork{Tenant: "acme", Most: "some"}),
		api.SetTenantNetwork(t.Context(), r.db.Admin, api.TenantNetwork{Tenant: "acme", Most: "open", Private: []string{"inner.example.com"}}),
	} {
		if bad == nil {
			t.Error("it was taken")
		}
	}
	if err := api.SetTenantCeiling(t.Context(), r.db.Admin, "nobody", wire.TenantCeiling{}, false); !step.Is(err, step.KindNotFound) || !strings.Contains(err.Error(), `no tenant "nobody"`) {
		t.Errorf("no tenant: %v", err)
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

// What attempts take is charged to the tenant's month; when its quota is used
// up, runs are refused and queued steps wait, until there is more.
func TestQuota(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	quota := func(minutes float64) {
		t.Helper()
		if err := api.SetTenantQuota(t.Context(), r.db.Admin, "acme", &minutes); err != nil {
			t.Fatal(err)
		}
	}
	month := func() wire.MonthUsage {
		t.Helper()
		u, err := r.user.Usage(t.Context(), time.Time{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		return u.Month
	}
	took := func(wall time.Duration, cause step.Cause) wire.VerdictRecord {
		v := exit(0)
		v.Verdict.Usage.WallMS = wall.Milliseconds()
		if cause != step.CauseExit {
			v.Verdict.Cause, v.Verdict.ExitCode = cause, nil
		}
		return v
	}
	const three = `[{"name":"a","tool":"test:echo","resources":{"cpu":2}},{"name":"b","tool":"test:echo"},{"name":"c","tool":"test:echo"}]`
	run := r.submit(three)
	if m := month(); m.ComputeMinutes != 0 || m.MaxComputeMinutes != nil || m.Month != m.EndsAt.AddDate(0, -1, 0).Format("2006-01") || m.EndsAt.Day() != 1 {
		t.Errorf("at first: %+v", m)
	}
	quota(3)
	w.finish(w.one(), took(time.Minute, step.CauseExit)) // on two cores
	if m := month(); m.ComputeMinutes != 2 || *m.MaxComputeMinutes != 3 {
		t.Errorf("after a minute on two cores: %+v", m)
	}
	w.finish(w.one(), took(time.Minute, step.CauseDriverError)) // not the tenant's fault: tried again
	if m := month(); m.ComputeMinutes != 2 {
		t.Errorf("a lost attempt was charged: %+v", m)
	}
	r.submit(`[{"name":"more","tool":"test:echo"}]`) // still within
	w.finish(w.one(), took(61*time.Second, step.CauseExit))
	resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g","steps":`+three+`}}`))
	if wait, err := strconv.Atoi(resp.Header.Get("Retry-After")); resp.StatusCode != http.StatusTooManyRequests || err != nil || wait < 1 || wait > 32*24*3600 ||
		!strings.Contains(string(raw), "max_compute_minutes_per_month is used up: 3.01 of 3.00") {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, raw)
	}
	waiting := func() int {
		n := 0
		for _, s := range r.run(run.ID).Steps {
			if strings.Contains(s.WaitingFor, "max_compute_minutes_per_month") {
				n++
			}
		}
		return n
	}
	if waiting() == 0 {
		t.Error("no step says that it waits for the quota")
	}
	// Within a second or two nothing of it is claimed any more; others are served.
	var got []wire.Lease
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if got = w.claim(1, 20*time.Millisecond); len(got) == 0 {
			break
		}
		if _, err := w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{got[0].Fence}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 0 {
		t.Errorf("still claimed: %+v", got)
	}
	r.client("rival", "user")
	if resp, raw := r.call("POST", "/api/runs", r.keys["rival user"], []byte(`{"plan":{"goal":"g","steps":`+three+`}}`)); resp.StatusCode != http.StatusCreated {
		t.Fatalf("the rival: %d %s", resp.StatusCode, raw)
	}
	for range 3 {
		l := w.one()
		if l.TenantID != "rival" {
			t.Errorf("claimed %+v", l)
		}
		w.finish(l, took(0, step.CauseExit))
	}
	quota(1000)
	w.finish(w.one(), took(0, step.CauseExit))
	if waiting() != 0 {
		t.Error("it still waits")
	}
	if err := api.SetTenantQuota(t.Context(), r.db.Admin, "acme", nil); err != nil {
		t.Fatal(err)
	}
	r.submit(three)
	for _, bad := range []float64{-1, 2e9, math.NaN()} {
		if err := api.SetTenantQuota(t.Context(), r.db.Admin, "acme", &bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
