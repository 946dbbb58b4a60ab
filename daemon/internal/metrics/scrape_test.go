package metrics

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// meter is a driver that says this.
type meter struct {
	driver.Driver
	say func(context.Context) ([]driver.Sample, error)
}

func (m meter) Metrics(ctx context.Context) ([]driver.Sample, error) { return m.say(ctx) }

func says(samples ...driver.Sample) driver.Driver {
	return meter{say: func(context.Context) ([]driver.Sample, error) { return samples, nil }}
}

func fails(err error) driver.Driver {
	return meter{say: func(context.Context) ([]driver.Sample, error) { return nil, err }}
}

// many is a source of drivers by name; nil = there is none.
type many map[string]driver.Driver

func (m many) Driver(name string) (driver.Driver, error) {
	if d := m[name]; d != nil {
		return d, nil
	}
	return nil, step.Errorf(step.KindNotFound, "there is no %s", name)
}

func (m many) Infos() (all []wire.DriverInfo) {
	for _, name := range []string{"a", "a-box", "driver", "hang", "idle", "late", "nonsense", "old", "plain"} {
		all = append(all, wire.DriverInfo{Name: name})
	}
	return all
}

func TestScrape(t *testing.T) {
	t.Parallel()
	of := func(name string, kind driver.SampleKind, value float64, labels ...string) driver.Sample {
		s := driver.Sample{Name: name, Kind: kind, Value: value}
		if len(labels) == 2 {
			s.Labels = map[string]string{labels[0]: labels[1]}
		}
		return s
	}
	m := New()
	m.PluginStarted("a")
	m.calls.total.WithLabelValues("a", "create", "ok").Inc()
	began := time.Now()
	m.Scrape(many{
		"a": says(of("nofx_a_made_total", driver.Counter, 2, "how", "well"), of("nofx_a_made_total", driver.Counter, 1, "how", "bad\"ly\n"),
			of("nofx_a_box_kept", driver.Gauge, 1)),
		"a-box":  says(of("nofx_a_box_kept", driver.Gauge, 1, "of", "what")), // unlike a's
		"driver": says(of("nofx_driver_calls_total", driver.Counter, 1)),     // the daemon's
		"hang": meter{say: func(ctx context.Context) ([]driver.Sample, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}},
		"idle":     nil,
		"late":     fails(step.Errorf(step.KindUnavailable, "not now")),
		"nonsense": says(of("nofx_nonsense_made", driver.Counter, 1)),
		"old":      fails(step.Errorf(step.KindUnsupported, "version 1")),
		"plain":    memdriver.New(memdriver.NewWorld(), memdriver.Options{}),
	})
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the scrape took %v", took)
	}
	body := w.Body.String()
	for _, line := range []string{
		"# TYPE nofx_a_made_total counter", `nofx_a_made_total{driver="a",how="well"} 2`, `nofx_a_made_total{driver="a",how="bad\"ly\n"} 1`,
		"# TYPE nofx_a_box_kept gauge", `nofx_a_box_kept{driver="a"} 1`,
		`nofx_driver_calls_total{call="create",driver="a",result="ok"} 1`, `nofx_plugin_starts_total{driver="a"} 1`,
		`nofx_plugin_scrape_failures_total{driver="a"} 0`, `nofx_plugin_scrape_failures_total{driver="a-box"} 1`,
		`nofx_plugin_scrape_failures_total{driver="driver"} 1`, `nofx_plugin_scrape_failures_total{driver="hang"} 1`,
		`nofx_plugin_scrape_failures_total{driver="idle"} 0`, `nofx_plugin_scrape_failures_total{driver="late"} 1`,
		`nofx_plugin_scrape_failures_total{driver="nonsense"} 1`, `nofx_plugin_scrape_failures_total{driver="old"} 0`,
		`nofx_plugin_scrape_failures_total{driver="plain"} 0`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("there is no %s", line)
		}
	}
	if w.Code != http.StatusOK || strings.Contains(body, "nonsense_made") || strings.Contains(body, `driver="a-box",of`) {
		t.Errorf("status %d:\n%s", w.Code, body)
	}
	if problems, err := testutil.GatherAndLint(m.Registry()); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}
