package api_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// What becomes of a worker host and its drivers is told, each change once.
func TestWorkerEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease = 10 * time.Second })
	refused := wire.DriverInfo{Name: "envy", Refused: "swapped", Message: "quarantined until its file changes: its sum is not the manifest's", Capabilities: []string{}}
	idle := wire.DriverInfo{Name: "idle", Message: "not configured", Capabilities: []string{}}
	w := r.worker("host", offering("local", able...), refused, idle)
	user := r.client("acme", "user")
	var want []string
	check := func(more ...string) {
		t.Helper()
		want = append(want, more...)
		list, err := user.WorkerEvents(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range slices.Backward(list.Events) {
			if e.Worker != "host" || e.WorkerID != w.id || e.CreatedAt.IsZero() {
				t.Errorf("%+v", e)
			}
			got = append(got, strings.TrimSpace(string(e.Type)+" "+e.Driver+" "+e.Message))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
	beat := func() {
		t.Helper()
		if _, err := w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers}); err != nil {
			t.Fatal(err)
		}
	}
	version := w.drivers[0].Version
	check("worker.up  test", strings.TrimSpace("driver.up local "+version), "driver.refused envy "+refused.Message)
	beat()
	check()
	w.drivers[0].Healthy, w.drivers[0].Message = false, "it is being restarted"
	beat()
	beat()
	check("driver.down local it is being restarted")
	w.drivers[0].Healthy, w.drivers[0].Message = true, ""
	w.drivers[1] = wire.DriverInfo{Name: "envy", Version: "2", Healthy: true, Capabilities: []string{}}
	beat()
	check(strings.TrimSpace("driver.up local "+version), "driver.up envy 2")
	w.drivers = w.drivers[:1]
	beat()
	check("driver.down envy the worker has it no more")
	w.silence()
	for end := time.Now().Add(30 * time.Second); ; {
		list, err := user.Workers(t.Context())
		if err != nil || time.Now().After(end) {
			t.Fatal(list, err)
		}
		if list.Workers[0].Status == "lost" {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	check("worker.lost")
	beat()
	check("worker.up")
	w.register("host")
	check("worker.up  test")
	if list, err := user.WorkerEvents(t.Context(), 1); err != nil || len(list.Events) != 1 {
		t.Errorf("limit: %+v, %v", list, err)
	}
	if _, err := user.WorkerEvents(t.Context(), 0); !step.Is(err, step.KindInvalid) {
		t.Errorf("limit 0: %v", err)
	}
}
