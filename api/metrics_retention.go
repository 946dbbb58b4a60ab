package api

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nofx-run/nofx/api/internal/blob"
	"github.com/nofx-run/nofx/api/internal/retention"
)

// retentionMetrics count what this replica removed.
type retentionMetrics struct {
	service   *retention.Service
	removed   *prometheus.CounterVec
	collected *prometheus.CounterVec
	bytes     prometheus.Counter
}

func newRetentionMetrics(r *prometheus.Registry, s *retention.Service) retentionMetrics {
	m := retentionMetrics{service: s,
		removed:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nofx_retention_removed_total", Help: "Rows that this replica removed since their time was over, by what they were."}, []string{"what"}),
		collected: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nofx_blobs_collected_total", Help: "Files that this replica removed since nobody referred to them, by what they were."}, []string{"what"}),
		bytes:     prometheus.NewCounter(prometheus.CounterOpts{Name: "nofx_blobs_collected_bytes_total", Help: "Their bytes."}),
	}
	r.MustRegister(m.removed, m.collected, m.bytes, m)
	return m
}

// Removed counts rows.
func (m retentionMetrics) Removed(r retention.Removed) {
	for what, n := range map[string]int64{"runs": r.Runs, "steps": r.Steps, "attempts": r.Attempts, "events": r.Events, "output": r.Output,
		"artifact_rows": r.Artifacts, "layers": r.Layers, "log": r.Log, "dlq": r.Dead, "artifacts": r.Ended} {
		m.removed.WithLabelValues(what).Add(float64(n))
	}
}

// Collected counts files.
func (m retentionMetrics) Collected(c blob.Collected) {
	for what, n := range map[string]int{"artifacts": c.Artifacts, "output": c.Segments, "uploads": c.Uploads} {
		m.collected.WithLabelValues(what).Add(float64(n))
	}
	m.bytes.Add(float64(c.Bytes))
}

func (retentionMetrics) lag() *prometheus.Desc {
	return prometheus.NewDesc("nofx_retention_lag_seconds", "For how long the run has been due to be removed that has been for the longest.", nil, nil)
}

// Describe and Collect are those of a prometheus.Collector.
func (m retentionMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.lag() }

func (m retentionMetrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	lag, err := m.service.Lag(ctx)
	if err != nil {
		return // as in breakerMetrics
	}
	ch <- prometheus.MustNewConstMetric(m.lag(), prometheus.GaugeValue, lag.Seconds())
}
