package metrics

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// scrapeTimeout is how long all the drivers together may take to say what they
// count: they are asked at the same time.
const scrapeTimeout = time.Second

// reserved begin the names of the daemon's own metrics, which a driver of such
// a name would spoil.
var reserved = []string{"nofx_daemon_", "nofx_driver_", "nofx_plugin_"}

// Scrape adds what the drivers of a source count themselves, asked for at each
// scrape. A driver that does not answer in time, or whose answer is not as
// driver.CheckSamples wants it, is left out and counted. It is called once.
func (m *Metrics) Scrape(s Source) { m.registry.MustRegister(newScrape(s, scrapeTimeout)) }

// scrape is a collector of what drivers say.
type scrape struct {
	source   Source
	timeout  time.Duration
	failures *prometheus.CounterVec
}

func newScrape(s Source, timeout time.Duration) *scrape {
	return &scrape{source: s, timeout: timeout, failures: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nofx_plugin_scrape_failures_total", Help: "Times that a driver's own metrics were left out: it did not answer in time, or nonsense.",
	}, []string{"driver"})}
}

// Describe implements prometheus.Collector: what drivers count is not known
// before.
func (c *scrape) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *scrape) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	infos := c.source.Infos()
	answers := make([][]driver.Sample, len(infos))
	errs := make([]error, len(infos))
	var asked sync.WaitGroup
	for i, info := range infos {
		asked.Go(func() { answers[i], errs[i] = c.ask(ctx, info.Name) })
	}
	asked.Wait()
	shapes := map[string]string{}
	for i, info := range infos {
		failed := c.failures.WithLabelValues(info.Name)
		if errs[i] != nil || !fit(answers[i], shapes) {
			failed.Inc()
			continue
		}
		for _, s := range answers[i] {
			ch <- metricOf(info.Name, s)
		}
	}
	c.failures.Collect(ch)
}

// ask gives what a driver counts: nothing, if it is none that does, or if no
// plugin is run for it.
func (c *scrape) ask(ctx context.Context, name string) ([]driver.Sample, error) {
	d, err := c.source.Driver(name)
	var samples []driver.Sample
	if m, ok := d.(driver.Metered); ok && err == nil {
		samples, err = m.Metrics(ctx)
	}
	switch {
	case err == nil:
		return samples, driver.CheckSamples(name, samples)
	case step.Is(err, step.KindUnsupported), step.Is(err, step.KindNotFound):
		return nil, nil
	}
	return nil, err
}

// fit reports whether the samples can stand beside those of the drivers before,
// whose metrics' shapes are given, and adds their own: "a" may have a metric
// that reads like one of "a-b".
func fit(samples []driver.Sample, shapes map[string]string) bool {
	own := map[string]string{}
	for _, s := range samples {
		own[s.Name] = string(s.Kind) + " " + strings.Join(slices.Sorted(maps.Keys(s.Labels)), " ")
		if before, ok := shapes[s.Name]; ok && before != own[s.Name] {
			return false
		}
		for _, r := range reserved {
			if strings.HasPrefix(s.Name, r) {
				return false
			}
		}
	}
	maps.Copy(shapes, own)
	return true
}

// metricOf is a checked sample as Prometheus knows it.
func metricOf(name string, s driver.Sample) prometheus.Metric {
	kind := prometheus.GaugeValue
	if s.Kind == driver.Counter {
		kind = prometheus.CounterValue
	}
	names := slices.Sorted(maps.Keys(s.Labels))
	values := []string{name}
	for _, n := range names {
		values = append(values, s.Labels[n])
	}
	desc := prometheus.NewDesc(s.Name, "As the driver counts it.", append([]string{"driver"}, names...), nil)
	return prometheus.MustNewConstMetric(desc, kind, s.Value, values...)
}
