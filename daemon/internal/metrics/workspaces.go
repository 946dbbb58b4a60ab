package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// workspaces counts what is saved of them, and put together again.
type workspaces struct {
	done    *prometheus.CounterVec
	bytes   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newWorkspaces() workspaces {
	return workspaces{
		done: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nofx_daemon_workspaces_total",
			Help: "Workspaces that were to be saved or restored, and what came of it."}, []string{"what", "result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nofx_daemon_workspace_bytes_total",
			Help: "Bytes of layers that were uploaded, or fetched to restore."}, []string{"what"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "nofx_daemon_workspace_seconds",
			Help: "Time that saving took, with the upload, or restoring.", Buckets: prometheus.ExponentialBuckets(0.002, 4, 10)}, []string{"what"}),
	}
}

func (w workspaces) collectors() []prometheus.Collector {
	return []prometheus.Collector{w.done, w.bytes, w.seconds}
}

// Workspace counts one that was to be saved ("save") or put together ("restore").
// result is ok, unchanged, refused or failed.
func (m *Metrics) Workspace(what, result string, bytes int64, took time.Duration) {
	m.workspaces.done.WithLabelValues(what, result).Inc()
	m.workspaces.bytes.WithLabelValues(what).Add(float64(bytes))
	m.workspaces.seconds.WithLabelValues(what).Observe(took.Seconds())
}
