package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/sdk/step"
)

// samples asks the driver through the protocol, and gives its samples by name
// and label value.
func samples(t *testing.T, d *Driver) map[string]float64 {
	t.Helper()
	all, err := drivertest.Connect(t, d).(driver.Metered).Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := driver.CheckSamples(Name, all); err != nil {
		t.Error(err)
	}
	values := map[string]float64{}
	for _, s := range all {
		if s.Name == engineEvents {
			continue // they come when they come
		}
		key := s.Name
		for _, value := range s.Labels {
			key += " " + value
		}
		values[key] = s.Value
	}
	return values
}

const engineEvents = "nofx_container_engine_events_total"

// What the engine says of containers is heard: it is counted, and tells how one
// ended that is not there any more.
func TestEngineEvents(t *testing.T) {
	t.Parallel()
	d := configured(t)
	h, s := newBox(t, d)
	done := begin(t, d, h)
	if err := docker.Do(t.Context(), "POST", "/containers/"+name(s.ID)+"/kill", nil, nil); err != nil {
		t.Fatal(err)
	}
	<-done
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(); <-time.After(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	eventually("the end is not told", func() bool { return d.heard.of(s.ID).died })
	if err := docker.Do(t.Context(), "DELETE", "/containers/"+name(s.ID)+"?force=1", nil, nil); err != nil {
		t.Fatal(err)
	}
	st, err := d.Recover(t.Context(), h)
	if err != nil || len(st.Execs) != 1 || st.Execs[0].Exit.Message != "the container ended from outside, by signal 9" {
		t.Errorf("%+v, %v", st, err)
	}
	eventually("its events are not counted", func() bool {
		all, err := d.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, m := range all {
			if m.Name == engineEvents {
				got[m.Labels["action"]] = m.Value
			}
		}
		return got["die"] == 1 && got["destroy"] == 1 && got["kill"] == 1 && got["create"] == 1 && got["start"] == 1
	})
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if err := d.sweep(t.Context(), d.setup, time.Now().Add(-orphanAge)); err != nil {
		t.Fatal(err)
	}
	if d.heard.of(s.ID) != (ended{}) {
		t.Error("it is not forgotten")
	}
}

// The kernel is faster than the engine: how a container ended is told when the
// engine has seen it, not before.
func TestEndIsWaitedFor(t *testing.T) {
	t.Parallel()
	d := configured(t)
	h, s := newBox(t, d)
	done := begin(t, d, h)
	st, err := d.setup.engine.inspect(t.Context(), name(s.ID))
	if err != nil || !st.running {
		t.Fatalf("%+v, %v", st, err)
	}
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(st.pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	shim, err := strconv.Atoi(strings.Fields(rest)[1]) // who tells the engine of it
	if err != nil || shim <= 1 {
		t.Fatalf("%s: %v", raw, err)
	}
	if err := errors.Join(syscall.Kill(shim, syscall.SIGSTOP), syscall.Kill(st.pid, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	wake := time.AfterFunc(500*time.Millisecond, func() { _ = syscall.Kill(shim, syscall.SIGCONT) })
	t.Cleanup(func() {
		wake.Stop()
		_ = syscall.Kill(shim, syscall.SIGCONT)
	})
	if r := <-done; r.exit.Cause != step.CauseLost || r.exit.Message != "the container ended from outside, by signal 9" {
		t.Errorf("%+v", r.exit)
	}
}

func TestCounts(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, t.Name())
	image := r.name("team/counted") + ":1"
	removeImage(t, image)
	d := configured(t, func(c *Config) { c.Pull = PullAlways })
	want := map[string]float64{
		"nofx_container_sandboxes": 0, "nofx_container_created_total": 0, "nofx_container_removed_total": 0, "nofx_container_swept_total": 0,
		"nofx_container_image_pulls_total ok": 0, "nofx_container_image_pulls_total failed": 0, "nofx_container_image_pull_seconds_total": 0,
	}
	if diff := cmp.Diff(want, samples(t, d)); diff != "" {
		t.Errorf("at the beginning (-want +got):\n%s", diff)
	}

	h, s := newBox(t, d, on(image))
	if again, err := d.Create(t.Context(), s); err != nil || again.ID != h.ID { // makes no other
		t.Fatal(err)
	}
	gone, err := d.Create(t.Context(), newSpec(t, on(image)))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // there is one container to remove
		if err := d.Destroy(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
	}
	_, noLevel := d.Create(t.Context(), newSpec(t, func(s *driver.Spec) { s.Isolation = "gvisor" }))
	_, noName := d.Create(t.Context(), newSpec(t, on("UPPER case")))
	_, noImage := d.Create(t.Context(), newSpec(t, on(r.name("team/counted")+"@sha256:"+fmt.Sprintf("%064d", 0))))
	if !step.Is(noLevel, step.KindUnsupported) || !step.Is(noName, step.KindInvalid) || noImage == nil {
		t.Fatal(noLevel, noName, noImage)
	}
	dir, err := d.Folder(h)
	if err != nil {
		t.Fatal(err)
	}
	hidden := filepath.Join(t.TempDir(), "gone")
	if err := os.Rename(dir, hidden); err != nil {
		t.Fatal(err)
	}
	set, err := d.configured()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.sweep(t.Context(), set, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(hidden, dir); err != nil {
		t.Fatal(err)
	}

	got := samples(t, d)
	seconds := "nofx_container_image_pull_seconds_total"
	if got[seconds] <= 0 || got[seconds] > 600 {
		t.Errorf("%v seconds of pulls", got[seconds])
	}
	delete(got, seconds)
	want = map[string]float64{
		"nofx_container_sandboxes": 1, "nofx_container_created_total": 2, "nofx_container_removed_total": 1, "nofx_container_swept_total": 1,
		"nofx_container_image_pulls_total ok": 2, "nofx_container_image_pulls_total failed": 1,
		"nofx_container_create_failures_total unsupported": 1, "nofx_container_create_failures_total invalid": 1,
		"nofx_container_create_failures_total " + string(step.KindOf(noImage)): 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in the end (-want +got):\n%s", diff)
	}
}
