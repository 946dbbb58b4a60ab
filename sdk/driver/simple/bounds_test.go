package simple

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// bounded is a driver that keeps a step's time, output and lease.
func bounded(t *testing.T, s driver.Spec) (*Driver, driver.Handle) {
	t.Helper()
	d := New(driver.Description{Name: "fake", Capabilities: driver.Capabilities{
		driver.CapMultiExec, driver.CapWallTime, driver.CapOutput, driver.CapLease,
	}}, &fake{}, nil)
	h, err := d.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return d, h
}

// end runs an exec and gives how it ended.
func end(t *testing.T, d *Driver, h driver.Handle, s driver.ExecSpec) driver.Exit {
	t.Helper()
	var exit driver.Exit
	err := d.Exec(t.Context(), h, s, func(e driver.ExecEvent) error {
		if e.Exit != nil {
			exit = *e.Exit
		}
		return nil
	})
	if err != nil {
		t.Fatalf("exec %s: %v", s.ID, err)
	}
	return exit
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, h := bounded(t, spec("a"))
		for _, tc := range []struct {
			argv   string
			cause  step.Cause
			signal string
			took   time.Duration
		}{
			{"exit", step.CauseExit, "", 0},
			{"wait", step.CauseTimeout, "15", 2 * time.Second},
			{"stubborn", step.CauseTimeout, "9", 5 * time.Second},
		} {
			began := time.Now()
			x := end(t, d, h, driver.ExecSpec{ID: tc.argv, Argv: []string{tc.argv}, Timeout: 2 * time.Second, Grace: 3 * time.Second})
			if x.Cause != tc.cause || x.Signal != tc.signal || time.Since(began) != tc.took {
				t.Errorf("%s: %+v after %v", tc.argv, x, time.Since(began))
			}
		}
		if err := d.Destroy(t.Context(), h); err != nil {
			t.Error(err)
		}
	})
}

func TestOutputLimit(t *testing.T) {
	t.Parallel()
	s := spec("a")
	s.Resources.OutputKB = 1
	d, h := bounded(t, s)
	for _, tc := range []struct {
		id, argv string
		limit    int64
		mode     step.OutputMode
		cause    step.Cause
		kept     int64
	}{
		// Each says its name and its folder: 18 bytes, or 1024 more.
		{"1", "exit", 19, step.OutputKill, step.CauseExit, 18},
		{"2", "exit", 5, step.OutputTruncate, step.CauseExit, 5},
		{"3", "exit", 5, step.OutputKill, step.CauseOutput, 5},
		{"4", "stubborn", 5, step.OutputKill, step.CauseOutput, 5},
		{"5", "exit" + strings.Repeat(" ", 1024), 0, "", step.CauseExit, 1024},
	} {
		argv := tc.argv
		x := end(t, d, h, driver.ExecSpec{ID: tc.id, Argv: []string{argv}, OutputLimit: tc.limit, OnOutput: tc.mode})
		if x.Cause != tc.cause || x.OutputBytes != tc.kept || x.Truncated != (x.TotalBytes > tc.kept) {
			t.Errorf("exec %s: %+v", tc.id, x)
		}
	}
	err := d.Exec(t.Context(), h, driver.ExecSpec{ID: "6", Argv: []string{"exit"}, OutputLimit: MaxOutput + 1}, nil)
	if !step.Is(err, step.KindUnsupported) {
		t.Errorf("more than is kept: %v", err)
	}
	err = d.Exec(t.Context(), h, driver.ExecSpec{ID: "7", Argv: []string{"exit"}, OnOutput: "perhaps"}, nil)
	if !step.Is(err, step.KindInvalid) {
		t.Errorf("an odd mode: %v", err)
	}
}

func TestLease(t *testing.T) {
	t.Parallel()
	s := spec("a")
	s.Until = driver.After(50 * time.Millisecond)
	d, h := bounded(t, s)
	if x := end(t, d, h, driver.ExecSpec{ID: "1", Argv: []string{"stubborn"}}); x.Cause != step.CauseLost || s.Until.Left() > 0 {
		t.Errorf("%+v, %v before the end", x, s.Until.Left())
	}
	if err := d.Exec(t.Context(), h, driver.ExecSpec{ID: "2", Argv: []string{"exit"}}, nil); !step.Is(err, step.KindConflict) {
		t.Errorf("exec after the end: %v", err)
	}
	if err := d.Extend(t.Context(), h, driver.After(time.Hour)); !step.Is(err, step.KindConflict) {
		t.Errorf("extend after the end: %v", err)
	}

	// One that is extended lives, and a repeat with another deadline is no other spec.
	s = spec("b")
	s.Until = driver.After(100 * time.Millisecond)
	h, err := d.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, until := range []driver.Deadline{driver.After(time.Hour), driver.Now()} { // never back
		if err := d.Extend(t.Context(), h, until); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), max(0, s.Until.Left())+50*time.Millisecond)
	defer cancel()
	_ = d.Exec(ctx, h, driver.ExecSpec{ID: "1", Argv: []string{"stubborn"}}, func(driver.ExecEvent) error { return nil })
	if st, err := d.Recover(t.Context(), h); err != nil || st.Phase != driver.PhaseRunning {
		t.Errorf("%+v, %v", st, err)
	}
	s.Until = driver.After(time.Minute)
	if _, err := d.Create(t.Context(), s); err != nil {
		t.Errorf("a repeat with another deadline: %v", err)
	}
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Error(err)
	}
}
