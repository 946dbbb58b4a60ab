package container

import (
	"context"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testhost"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// configured gives a driver with a configuration of the test's own.
func configured(t testing.TB, change ...func(*Config)) *Driver {
	t.Helper()
	d := newDriver()
	if err := d.Configure(t.Context(), config(t, change...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func newSpec(t testing.TB, change ...func(*driver.Spec)) driver.Spec {
	t.Helper()
	s := driver.Spec{ID: "box-" + testhost.Random(), Tags: driver.Tags{Owner: "owner-" + testhost.Random(), ID: "x"}, Network: step.NetworkNone}
	for _, f := range change {
		f(&s)
	}
	testhost.New().Fill(t, &s)
	return s
}

// newBox makes a sandbox that goes with the test.
func newBox(t testing.TB, d *Driver, change ...func(*driver.Spec)) (driver.Handle, driver.Spec) {
	t.Helper()
	s := newSpec(t, change...)
	h, err := d.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := d.Destroy(ctx, h); err != nil {
			t.Errorf("destroy: %v", err)
		}
	})
	return h, s
}

// ran is what a program wrote and how it ended.
type ran struct {
	out, err string
	exit     driver.Exit
}

func (r *ran) sink(e driver.ExecEvent) error {
	switch {
	case e.Exit != nil:
		r.exit = *e.Exit
	case e.Stream == driver.Stdout:
		r.out += string(e.Data)
	default:
		r.err += string(e.Data)
	}
	return nil
}

func shell(script string) driver.ExecSpec {
	return driver.ExecSpec{ID: "x-" + testhost.Random(), Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}}
}

func run(t testing.TB, d *Driver, h driver.Handle, script string) ran {
	t.Helper()
	var r ran
	if err := d.Exec(t.Context(), h, shell(script), r.sink); err != nil {
		t.Fatal(err)
	}
	return r
}
