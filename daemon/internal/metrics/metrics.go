// Package metrics is the daemon's Prometheus metrics.
package metrics

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nofx-run/nofx/sdk/step"
)

// Metrics counts what the daemon does. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	claimed   prometheus.Counter
	ended     *prometheus.CounterVec
	wall      *prometheus.HistogramVec
	shipped   prometheus.Counter
	failures  *prometheus.CounterVec
	swept     *prometheus.CounterVec
	heartbeat prometheus.GaugeFunc
	lastBeat  atomic.Int64 // Unix nanoseconds
	calls     *calls
	plugins   plugins

	workspaces workspaces
}

// New makes the metrics, all at zero.
func New() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls:    newCalls(),
		plugins:  newPlugins(),

		workspaces: newWorkspaces(),
		claimed:    prometheus.NewCounter(prometheus.CounterOpts{Name: "nofx_daemon_claims_total", Help: "Leases taken."}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nofx_daemon_attempts_ended_total",
			Help: "Attempts that ended here, by driver and cause."}, []string{"driver", "cause"}),
		wall: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "nofx_daemon_attempt_seconds",
			Help: "Wall time of attempts.", Buckets: prometheus.ExponentialBuckets(0.002, 4, 10)}, []string{"driver"}),
		shipped: prometheus.NewCounter(prometheus.CounterOpts{Name: "nofx_daemon_journal_records_shipped_total",
			Help: "Journal records that the API has answered for."}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nofx_daemon_api_failures_total",
			Help: "Calls to the API that failed, by what they were for."}, []string{"call"}),
	}
	m.swept = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nofx_daemon_swept_total",
		Help: "What sweeps found that nobody had any more, by kind and what came of it."}, []string{"kind", "result"})
	m.lastBeat.Store(time.Now().UnixNano())
	m.heartbeat = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nofx_daemon_heartbeat_age_seconds",
		Help: "Time since the last heartbeat that the API answered."}, func() float64 { return m.HeartbeatAge().Seconds() })
	m.registry.MustRegister(m.calls.collectors()...)
	m.registry.MustRegister(m.claimed, m.ended, m.wall, m.shipped, m.failures, m.swept, m.heartbeat,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.plugins.collectors()...)
	m.registry.MustRegister(m.workspaces.collectors()...)
	return m
}

// Handler serves them.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// Registry is where they are, for checks.
func (m *Metrics) Registry() prometheus.Gatherer { return m.registry }

// Claimed counts leases.
func (m *Metrics) Claimed(n int) { m.claimed.Add(float64(n)) }

// Ended counts an attempt.
func (m *Metrics) Ended(driver string, cause step.Cause, wall time.Duration) {
	m.ended.WithLabelValues(driver, string(cause)).Inc()
	m.wall.WithLabelValues(driver).Observe(wall.Seconds())
}

// Shipped counts records, or the failure to ship them.
func (m *Metrics) Shipped(records int, err error) {
	if err != nil {
		m.failures.WithLabelValues("journal").Inc()
		return
	}
	m.shipped.Add(float64(records))
}

// Swept counts something that a sweep removed, or could not.
func (m *Metrics) Swept(kind string, err error) {
	result := "removed"
	if err != nil {
		result = "failed"
	}
	m.swept.WithLabelValues(kind, result).Inc()
}

// Heartbeat notes one.
func (m *Metrics) Heartbeat(err error) {
	if err != nil {
		m.failures.WithLabelValues("heartbeat").Inc()
		return
	}
	m.lastBeat.Store(time.Now().UnixNano())
}

// HeartbeatAge is the time since the last heartbeat that was answered.
func (m *Metrics) HeartbeatAge() time.Duration { return time.Since(time.Unix(0, m.lastBeat.Load())) }
