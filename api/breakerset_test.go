package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// An operator resets breakers and forces them; nobody else does, and each time
// is in the audit log.
func TestSetBreakers(t *testing.T) {
	t.Parallel()
	r, w, _ := opened(t, counting)
	operator := r.client("acme", "operator")
	set := func(in wire.SetBreaker) wire.BreakersSet {
		t.Helper()
		got, err := operator.SetBreakers(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	r.submit(flaky)
	if _, err := r.user.SetBreakers(t.Context(), wire.SetBreaker{Action: wire.BreakerReset, Tool: "flaky"}); !step.Is(err, step.KindForbidden) {
		t.Errorf("a user: %v", err)
	}
	if got := w.claim(1, 0); len(got) != 0 {
		t.Fatalf("claimed %+v", got)
	}
	if diff := cmp.Diff(wire.BreakersSet{Tool: "flaky", Drivers: []string{"local"}, State: "closed"}, set(wire.SetBreaker{Action: wire.BreakerReset, Tool: "flaky"})); diff != "" {
		t.Error(diff)
	}
	w.finish(w.one(), exit(1)) // a streak begins anew
	if b := r.breaker("flaky", "local"); b.State != "closed" || b.Reason != "an operator's reset" {
		t.Errorf("%+v", b)
	}

	set(wire.SetBreaker{Action: wire.BreakerForceOpen, Tool: "flaky", Driver: "local", Reason: "the vendor is down"})
	run := r.submit(flaky)
	if got := w.claim(1, 0); len(got) != 0 {
		t.Fatalf("claimed %+v", got)
	}
	if why := r.run(run.ID).Steps[0].WaitingFor; why != "the breaker of flaky on local, which an operator has opened: the vendor is down" {
		t.Errorf("waits for %q", why)
	}
	if b := r.breaker("flaky", "local"); !b.Forced || b.State != "open" || b.ReadyAt != nil {
		t.Errorf("%+v", b)
	}
	set(wire.SetBreaker{Action: wire.BreakerForceClose, Tool: "flaky"})
	w.finish(w.one(), exit(1))
	for range 5 {
		r.submit(flaky)
		w.finish(w.one(), exit(1))
	}
	if b := r.breaker("flaky", "local"); !b.Forced || b.State != "closed" {
		t.Errorf("after failures: %+v", b)
	}
	if got := set(wire.SetBreaker{Action: wire.BreakerReset, Tool: "calm"}); len(got.Drivers) != 0 {
		t.Errorf("a reset of what nothing has happened to: %+v", got)
	}
	// An operator is a user, too.
	if _, err := operator.Handlers(t.Context()); err != nil {
		t.Error(err)
	}

	key := r.keys["acme operator"]
	for body, want := range map[string]struct {
		status int
		text   string
	}{
		`{"action":"reset","tool":"nope"}`:                                   {http.StatusNotFound, "no handler nope"},
		`{"action":"open","tool":"flaky"}`:                                   {http.StatusUnprocessableEntity, "body.action"},
		`{"action":"reset","tool":"flaky","who":"me"}`:                       {http.StatusUnprocessableEntity, "body.who"},
		`{"action":"reset","tool":"flaky","reason":"a\nb"}`:                  {http.StatusUnprocessableEntity, "body.reason"},
		`{"action":"reset","tool":"flaky","tenant":"nobody"}`:                {http.StatusNotFound, "no tenant nobody"},
		`{"action":"reset","tool":"` + strings.Repeat("x", 300) + `"}`:       {http.StatusUnprocessableEntity, "body.tool"},
		`{"action":"reset","tool":"flaky","driver":"local","tenant":"acme"}`: {http.StatusOK, `"drivers":[]`},
		`{"action":"force-open","tool":"calm","driver":"contaner"}`:          {http.StatusUnprocessableEntity, "neither a driver of NOFX nor one that a worker offers: use one of container"},
		`{"action":"force-close","tool":"calm","driver":"contaner"}`:         {http.StatusUnprocessableEntity, "body.driver"},
		`{"action":"reset","tool":"calm","driver":"contaner"}`:               {http.StatusOK, `"drivers":[]`},
	} {
		if resp, raw := r.call("POST", "/api/breakers", key, []byte(body)); resp.StatusCode != want.status || !strings.Contains(string(raw), want.text) {
			t.Errorf("%s: %d %s", body, resp.StatusCode, raw)
		}
	}
	rows := r.column("SELECT action || ' ' || target || ' ' || (detail ->> 'reason') FROM nofx.audit_log WHERE action LIKE 'breaker.%' ORDER BY id")
	want := []string{"breaker.reset flaky/local ", "breaker.force-open flaky/local the vendor is down", "breaker.force-close flaky/local "}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Error(diff)
	}
}

// A driver is known by its older name, too, as in a plan; one that only workers
// have is known while they are there, and what was set of it can always be reset.
func TestSetBreakersKnowsDrivers(t *testing.T) {
	t.Parallel()
	r := newRig(t, handlersWith(t, ""))
	w := r.worker("host", offering("local", able...), offering("mine", able...))
	operator := r.client("acme", "operator")
	for asked, want := range map[string]string{"worker-container": "container", "mine": "mine", "e2b": "e2b"} {
		got, err := operator.SetBreakers(t.Context(), wire.SetBreaker{Action: wire.BreakerForceOpen, Tool: "flaky", Driver: asked})
		if err != nil || !slices.Equal(got.Drivers, []string{want}) || r.breaker("flaky", want).State != "open" {
			t.Errorf("%s: %+v, %v", asked, got, err)
		}
	}
	w.drivers = w.drivers[:1]
	w.register("host")
	for _, action := range []wire.BreakerAction{wire.BreakerForceClose, wire.BreakerReset} {
		if got, err := operator.SetBreakers(t.Context(), wire.SetBreaker{Action: action, Tool: "flaky", Driver: "mine"}); err != nil || len(got.Drivers) != 1 {
			t.Errorf("%s of what nobody has any more: %+v, %v", action, got, err)
		}
	}
}

// Whose breaker is meant must be said where each tenant has one, but for a
// reset of all.
func TestSetBreakersOfTenants(t *testing.T) {
	t.Parallel()
	r := newRig(t, handlersWith(t, "breaker: {per_tenant: true, counts: [exit], consecutive: 1}"))
	w := r.worker("host")
	operator := r.client("rival", "operator")
	r.submit(flaky)
	w.finish(w.one(), exit(1))
	if _, err := operator.SetBreakers(t.Context(), wire.SetBreaker{Action: wire.BreakerForceOpen, Tool: "flaky"}); !step.Is(err, step.KindInvalid) {
		t.Errorf("%v", err)
	}
	if b := r.breaker("flaky", "local"); b.State != "open" {
		t.Errorf("%+v", b)
	}
	if _, err := operator.SetBreakers(t.Context(), wire.SetBreaker{Action: wire.BreakerReset, Tool: "flaky"}); err != nil {
		t.Error(err)
	}
	if b := r.breaker("flaky", "local"); b.State != "closed" {
		t.Errorf("%+v", b)
	}
	if _, err := operator.SetBreakers(t.Context(), wire.SetBreaker{Action: wire.BreakerForceOpen, Tool: "flaky", Tenant: "acme"}); err != nil {
		t.Error(err)
	}
	if b := r.breaker("flaky", "local"); b.State != "open" || !b.Forced {
		t.Errorf("%+v", b)
	}
}

// A driver that works with each tenant's own credentials has a breaker for each,
// whatever the manifest says: to force one that no step meets is refused, not
// said to be done.
func TestSetBreakersOfADriverWithCredentials(t *testing.T) {
	t.Parallel()
	r := newRig(t, handlersWith(t, ""))
	w := r.worker("host", offering("local", able...), offering("vendor", append(slices.Clone(able), string(driver.CapTenant))...))
	operator := r.client("rival", "operator")
	const onVendor = `[{"name":"a","tool":"flaky","driver":"vendor"}]`
	for in, want := range map[wire.SetBreaker]string{
		{Action: wire.BreakerForceOpen, Tool: "flaky", Driver: "vendor"}:                  "say whose",
		{Action: wire.BreakerForceClose, Tool: "flaky", Driver: "vendor"}:                 "say whose",
		{Action: wire.BreakerForceOpen, Tool: "flaky", Driver: "local", Tenant: "acme"}:   "one for all tenants",
		{Action: wire.BreakerForceClose, Tool: "flaky", Tenant: "acme", Reason: "no use"}: "one for all tenants",
	} {
		if got, err := operator.SetBreakers(t.Context(), in); !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %+v, %v", in, got, err)
		}
	}
	for in, want := range map[wire.SetBreaker]string{
		{Action: wire.BreakerForceOpen, Tool: "flaky", Driver: "vendor", Tenant: "acme"}: onVendor,
		{Action: wire.BreakerForceOpen, Tool: "flaky", Driver: "local"}:                  flaky,
	} {
		if got, err := operator.SetBreakers(t.Context(), in); err != nil || len(got.Drivers) != 1 || got.Drivers[0] != in.Driver {
			t.Fatalf("%+v: %+v, %v", in, got, err)
		}
		run := r.submit(want)
		if got := w.claim(1, 0); len(got) != 0 {
			t.Errorf("%+v: claimed %+v", in, got)
		}
		if why := r.run(run.ID).Steps[0].WaitingFor; !strings.Contains(why, "an operator has opened") {
			t.Errorf("%+v: waits for %q", in, why)
		}
	}
	if got, err := operator.SetBreakers(t.Context(), wire.SetBreaker{Action: wire.BreakerForceClose, Tool: "flaky", Tenant: "acme"}); err != nil || !slices.Equal(got.Drivers, []string{"vendor"}) {
		t.Errorf("all of a tenant's: %+v, %v", got, err)
	}
	if got := names(w.claim(8, 0)); len(got) != 1 {
		t.Errorf("%v", got)
	}
}
