package metrics

import "github.com/prometheus/client_golang/prometheus"

// plugins are the metrics of the driver plugins.
type plugins struct {
	starts, deaths, refused *prometheus.CounterVec
	quarantined, healthy    *prometheus.GaugeVec
}

func newPlugins() plugins {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nofx_plugin_" + name, Help: help}, append([]string{"driver"}, labels...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "nofx_plugin_" + name, Help: help}, []string{"driver"})
	}
	return plugins{
		starts:      counter("starts_total", "Processes of driver plugins that were started, checked and configured."),
		deaths:      counter("deaths_total", "Processes of driver plugins that ended unasked, hung or could not be started."),
		refused:     counter("refused_total", "Driver plugins that were not run, by reason.", "reason"),
		quarantined: gauge("quarantined", "Whether the driver's plugin is left alone after it was refused or died too often."),
		healthy:     gauge("healthy", "Whether the driver can take work."),
	}
}

func (p plugins) collectors() []prometheus.Collector {
	return []prometheus.Collector{p.starts, p.deaths, p.refused, p.quarantined, p.healthy}
}

// PluginStarted counts a process. The other counters of the driver begin with
// it, at zero.
func (m *Metrics) PluginStarted(driver string) {
	m.plugins.starts.WithLabelValues(driver).Inc()
	m.plugins.deaths.WithLabelValues(driver)
}

// PluginDied counts a process that is no more.
func (m *Metrics) PluginDied(driver string) { m.plugins.deaths.WithLabelValues(driver).Inc() }

// PluginRefused counts a refusal.
func (m *Metrics) PluginRefused(driver, reason string) {
	m.plugins.refused.WithLabelValues(driver, reason).Inc()
}

// PluginState notes how a driver is.
func (m *Metrics) PluginState(driver string, healthy, quarantined bool) {
	m.plugins.healthy.WithLabelValues(driver).Set(number(healthy))
	m.plugins.quarantined.WithLabelValues(driver).Set(number(quarantined))
}

// PluginGone forgets how a driver was.
func (m *Metrics) PluginGone(driver string) {
	m.plugins.healthy.DeleteLabelValues(driver)
	m.plugins.quarantined.DeleteLabelValues(driver)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
