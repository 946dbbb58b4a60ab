package metrics

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
	"github.com/nofx-run/nofx/sdk/wire"
)

// one is a source with one driver, whatever its name.
type one struct{ d driver.Driver }

func (o one) Driver(string) (driver.Driver, error) { return o.d, nil }
func (o one) Infos() []wire.DriverInfo             { return nil }

func TestDriverCalls(t *testing.T) {
	t.Parallel()
	m := New()
	d, err := m.Drivers(one{memdriver.New(memdriver.NewWorld(), memdriver.Options{})}).Driver("mem")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := d.Configure(ctx, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	h, err := d.Create(ctx, driver.Spec{ID: "a", Tags: driver.Tags{Owner: "o", ID: "i"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(ctx, driver.Spec{ID: "b"}); err == nil {
		t.Fatal("no tags, and it was made")
	}
	running := -1.0
	err = d.Exec(ctx, h, driver.ExecSpec{ID: "x", Argv: []string{"mem", "exit", "0"}}, func(driver.ExecEvent) error {
		running = testutil.ToFloat64(m.calls.running.WithLabelValues("mem"))
		return nil
	})
	if err != nil || running != 1 {
		t.Errorf("%v, %v running", err, running)
	}
	if err := d.Destroy(ctx, h); err != nil {
		t.Fatal(err)
	}
	for labels, want := range map[[2]string]float64{
		{"create", "ok"}: 1, {"create", "invalid"}: 1, {"exec", "ok"}: 1, {"destroy", "ok"}: 1, {"attach", "ok"}: 0,
	} {
		if got := testutil.ToFloat64(m.calls.total.WithLabelValues("mem", labels[0], labels[1])); got != want {
			t.Errorf("%v: %v, want %v", labels, got, want)
		}
	}
	if got := testutil.ToFloat64(m.calls.running.WithLabelValues("mem")); got != 0 {
		t.Errorf("%v running in the end", got)
	}
	if problems, err := testutil.GatherAndLint(m.Registry()); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}
