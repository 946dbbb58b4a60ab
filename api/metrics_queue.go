package api

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// queueMetrics look at the queue when they are asked.
type queueMetrics struct{ db *pg.DB }

func (queueMetrics) oldest() *prometheus.Desc {
	return prometheus.NewDesc("nofx_queue_oldest_age_seconds", "For how long the oldest step in the queue has been due, of all tenants whose own quota does not keep their steps back.", nil, nil)
}

func (queueMetrics) pressed() *prometheus.Desc {
	return prometheus.NewDesc("nofx_queue_pressure_tenants", "Tenants whose queue stands, as queue.backpressure tells.", nil, nil)
}

// Describe and Collect are those of a prometheus.Collector.
func (m queueMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.oldest(); ch <- m.pressed() }

func (m queueMetrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	var row pgdb.QueuePressureRow
	err := m.db.SystemQuery(ctx, func(q *pgdb.Queries) (err error) {
		row, err = q.QueuePressure(ctx)
		return err
	})
	if err != nil {
		return // as in breakerMetrics
	}
	ch <- prometheus.MustNewConstMetric(m.oldest(), prometheus.GaugeValue, row.OldestSeconds)
	ch <- prometheus.MustNewConstMetric(m.pressed(), prometheus.GaugeValue, float64(row.Tenants))
}
