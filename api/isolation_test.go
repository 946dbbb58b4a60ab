package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A level that no worker has is refused when the run is submitted, with what is
// missing; where one has it, the step gets it and its lease says so. While no
// worker has the driver, or one has not said what it can do, the step waits.
func TestIsolationIsDemanded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	submit := func(fields string) (int, string) {
		resp, raw := r.call(http.MethodPost, "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"`+fields+`}]}}`))
		return resp.StatusCode, string(raw)
	}
	const demands = `,"isolation":"gvisor"`
	if code, raw := submit(demands); code != http.StatusCreated {
		t.Fatalf("before any worker: %d %s", code, raw)
	}
	namespace := append([]string{"isolation.namespace"}, able...)
	both := append([]string{"isolation.gvisor"}, namespace...)

	w := r.worker("host", offering("local", namespace...))
	code, raw := submit(demands)
	if code != http.StatusUnprocessableEntity || !strings.Contains(raw, "isolation.gvisor") || !strings.Contains(raw, "body.plan.steps[0].isolation") {
		t.Errorf("without the level: %d %s", code, raw)
	}
	// The one that was there before is refused when it is claimed.
	if got := w.claim(4, 0); len(got) != 0 {
		t.Errorf("claimed without the level: %+v", got)
	}
	if code, raw := submit(`,"isolation":"namespace"`); code != http.StatusCreated {
		t.Errorf("the level that it has: %d %s", code, raw)
	}
	if l := w.one(); l.Command.Isolation != "namespace" {
		t.Errorf("%+v", l)
	} else {
		w.finish(l, exit(0))
	}
	for fields, want := range map[string]string{
		`,"isolation":"paper"`:                    "isolation",
		`,"isolation":"gvisor","driver":"nosuch"`: "driver",
	} {
		if code, raw := submit(fields); code != http.StatusUnprocessableEntity || !strings.Contains(raw, want) {
			t.Errorf("%s: %d %s", fields, code, raw)
		}
	}

	w.drivers = []wire.DriverInfo{offering("local", both...)}
	w.register("host")
	if code, raw := submit(demands + `,"network":"open"`); code != http.StatusUnprocessableEntity || !strings.Contains(raw, "net.gvisor") || !strings.Contains(raw, "steps[0].network") {
		t.Errorf("a network, on a driver that has none at that level: %d %s", code, raw)
	}
	w.drivers = []wire.DriverInfo{offering("local", append([]string{"net.open", "net.gvisor"}, both...)...)}
	w.register("host")
	if code, raw := submit(demands + `,"network":"open"`); code != http.StatusCreated {
		t.Errorf("a network, on one that has: %d %s", code, raw)
	}
	if l := w.one(); l.Command.Isolation != "gvisor" || l.Network != step.NetworkOpen {
		t.Errorf("%+v", l)
	} else {
		w.finish(l, exit(0))
	}
	run := r.submit(`[{"name":"a","tool":"test:echo","isolation":"gvisor"}]`)
	l := w.one()
	if l.Command.Isolation != "gvisor" || l.RunID != run.ID {
		t.Fatalf("%+v", l)
	}
	w.finish(l, exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}

	w.drivers = []wire.DriverInfo{{Name: "local", Message: "starting"}}
	w.register("host")
	if code, raw := submit(demands); code != http.StatusCreated {
		t.Errorf("of a driver that has not said yet: %d %s", code, raw)
	}
}

// A tenant's policy can demand a level of all its steps: they get it, or are
// refused when they ask for less or for what does not go with it.
func TestTenantIsolation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	w.drivers[0].Capabilities = append(w.drivers[0].Capabilities, "isolation.namespace", "isolation.gvisor", "net.open")
	w.register("host")
	post := func(fields string) (int, string) {
		t.Helper()
		resp, raw := r.call(http.MethodPost, "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"`+fields+`}]}}`))
		return resp.StatusCode, string(raw)
	}
	for _, f := range []string{"", `,"isolation":"namespace"`, `,"network":"open"`} { // before
		if status, raw := post(f); status != http.StatusCreated {
			t.Fatalf("%s: %d %s", f, status, raw)
		}
		w.finish(w.one(), exit(0))
	}
	if err := api.SetTenantIsolation(t.Context(), r.db.Admin, "acme", "gvisor"); err != nil {
		t.Fatal(err)
	}
	if status, raw := post(`,"isolation":"namespace"`); status != http.StatusForbidden || !strings.Contains(raw, "steps[0].isolation") || !strings.Contains(raw, "which") {
		t.Errorf("less than the policy demands: %d %s", status, raw)
	}
	// A network that no worker has at that level.
	if status, raw := post(`,"network":"open"`); status != http.StatusCreated {
		t.Fatalf("%d %s", status, raw)
	} else if got := w.claim(1, 0); len(got) != 0 {
		t.Errorf("claimed %+v", got)
	}
	for _, f := range []string{"", `,"isolation":"gvisor"`} {
		if status, raw := post(f); status != http.StatusCreated {
			t.Fatalf("%s: %d %s", f, status, raw)
		}
		l := w.one()
		if l.Command.Isolation != "gvisor" {
			t.Errorf("%s: %+v", f, l.Command)
		}
		w.finish(l, exit(0))
	}
	// A worker without the level does not run it below.
	w.drivers[0].Capabilities = slices.DeleteFunc(w.drivers[0].Capabilities, func(c string) bool { return c == "isolation.gvisor" })
	w.register("host")
	if status, raw := post(""); status != http.StatusCreated {
		t.Fatalf("%d %s", status, raw)
	}
	if got := w.claim(1, 0); len(got) != 0 {
		t.Errorf("claimed %+v", got)
	}
	for level, ok := range map[string]bool{"namespace": true, "vm": false, "": false} {
		if err := api.SetTenantIsolation(t.Context(), r.db.Admin, "acme", level); (err == nil) != ok {
			t.Errorf("%q: %v", level, err)
		}
	}
	if status, raw := post(`,"isolation":"namespace"`); status != http.StatusCreated {
		t.Errorf("after: %d %s", status, raw)
	}
}
