package pluginhost

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testhost"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// buildLocal builds the local driver under a version.
func buildLocal(t *testing.T, dir, version string) string {
	t.Helper()
	path := filepath.Join(dir, "local-"+version)
	cmd := exec.Command("go", "build", "-o", path, "-ldflags", "-X github.com/nofx-run/nofx/internal/buildinfo.version="+version,
		"../../../plugins/local/cmd/nofx-driver-local")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// A real step goes on while its driver's plugin is replaced by a newer build,
// and no byte of its output is lost or told twice.
func TestUpgradeUnderARunningStep(t *testing.T) {
	t.Parallel()
	build := t.TempDir()
	if out, err := exec.Command("make", "-s", "-C", "../../../plugins/supervisor", "BIN="+build).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	v1, v2 := buildLocal(t, build, "v1"), buildLocal(t, build, "v2")
	config, err := json.Marshal(map[string]any{
		"state_dir": filepath.Join(t.TempDir(), "state"), "supervisor": filepath.Join(build, "nofx-supervisor"), "tmp_mb": 64, "shm_mb": 16,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, nil, looking, func(c *Config) {
		c.Configs["local"] = config
		if err := os.Rename(v1, filepath.Join(c.Dir, prefix+"local")); err != nil {
			t.Fatal(err)
		}
	})
	r.infoOf(t, "local", "v1", func(i wire.DriverInfo) bool { return i.Healthy && i.Version == "v1" })
	old := r.pid(t, "local")
	d, err := r.Driver("local")
	if err != nil {
		t.Fatal(err)
	}
	spec := driver.Spec{ID: "box-" + testhost.Random(), Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone, Until: driver.After(time.Minute)}
	testhost.New().Fill(t, &spec)
	h, err := d.Create(bg(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Destroy(bg(t), h); err != nil {
			t.Error(err)
		}
	})

	// The step counts for as long as it is not told to stop.
	const count = `i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i; sleep 0.02; done; echo end $i`
	var got bytes.Buffer
	var exit *driver.Exit
	begun := make(chan struct{}, 1)
	sink := func(e driver.ExecEvent) error {
		got.Write(e.Data)
		if e.Exit != nil {
			exit = e.Exit
		}
		select {
		case begun <- struct{}{}:
		default:
		}
		return nil
	}
	done := make(chan error, 1)
	go func() {
		err := d.Exec(bg(t), h, driver.ExecSpec{ID: "main", Argv: []string{"sh", "-c", count}}, sink)
		for step.Is(err, step.KindUnavailable) { // as the worker does
			var state driver.State
			if state, err = d.Recover(bg(t), h); err != nil {
				continue
			}
			if !slices.ContainsFunc(state.Execs, func(e driver.ExecState) bool { return e.ID == "main" }) {
				err = fmt.Errorf("recovered %+v", state)
				break
			}
			err = d.Attach(bg(t), h, "main", int64(got.Len()), sink)
		}
		done <- err
	}()
	<-begun
	if err := os.Rename(v2, filepath.Join(r.cfg.Dir, prefix+"local")); err != nil {
		t.Fatal(err)
	}
	r.infoOf(t, "local", "v2", func(i wire.DriverInfo) bool { return i.Healthy && i.Version == "v2" })
	gone(t, old)
	select {
	case err := <-done:
		t.Fatalf("the step ended: %v, %+v", err, exit)
	default:
	}
	if err := d.Exec(bg(t), h, driver.ExecSpec{ID: "stop", Argv: []string{"touch", "/tmp/stop"}}, func(driver.ExecEvent) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if exit == nil || exit.Cause != step.CauseExit || exit.Code != 0 {
		t.Errorf("exit %+v", exit)
	}
	lines := strings.Split(strings.TrimSpace(got.String()), "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != fmt.Sprint(i+1) {
			t.Fatalf("line %d is %q", i+1, line)
		}
	}
	if want := fmt.Sprintf("end %d", len(lines)-1); lines[len(lines)-1] != want || len(lines) < 10 {
		t.Errorf("%d lines, the last is %q, want %q", len(lines), lines[len(lines)-1], want)
	}
}
