package driverrpc_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
	"github.com/nofx-run/nofx/sdk/step"
)

// meter is a driver that counts.
type meter struct {
	script
	samples []driver.Sample
	err     error
}

func (m meter) Metrics(context.Context) ([]driver.Sample, error) { return m.samples, m.err }

func metrics(t *testing.T, d driver.Driver) ([]driver.Sample, error) {
	t.Helper()
	m, ok := drivertest.Connect(t, d).(driver.Metered)
	if !ok {
		t.Fatal("a client is not Metered")
	}
	return m.Metrics(t.Context())
}

func TestMetricsCross(t *testing.T) {
	t.Parallel()
	want := []driver.Sample{
		{Name: "nofx_script_runs_total", Kind: driver.Counter, Labels: map[string]string{"how": "well"}, Value: 2.5},
		{Name: "nofx_script_now", Kind: driver.Gauge, Value: -1},
	}
	got, err := metrics(t, meter{samples: want})
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v %s", err, cmp.Diff(want, got))
	}
	if _, err := metrics(t, meter{err: step.Errorf(step.KindUnavailable, "not now")}); !step.Is(err, step.KindUnavailable) {
		t.Errorf("a driver that cannot say: %v", err)
	}
	if _, err := metrics(t, script{}); !step.Is(err, step.KindUnsupported) {
		t.Errorf("a driver that counts nothing: %v", err)
	}
	if _, err := metrics(t, meter{samples: []driver.Sample{{Name: "\xff", Labels: map[string]string{"\xff": "\xff"}}}}); err != nil {
		t.Errorf("bytes that are not UTF-8: %v", err)
	}
}

func TestVersionsOfADescription(t *testing.T) {
	t.Parallel()
	d, err := drivertest.Connect(t, memdriver.New(memdriver.NewWorld(), memdriver.Options{})).Describe(t.Context())
	if err != nil || !slices.Equal(d.ProtocolVersions, []int{1, 2}) {
		t.Errorf("versions %v, %v", d.ProtocolVersions, err)
	}
}
