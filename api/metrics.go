package api

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/nofx-run/nofx/api/internal/breaker"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/wake"
)

// newRegistry makes the metrics of what runs behind the routes.
func newRegistry(db *pg.DB, hub *wake.Hub) (*prometheus.Registry, breakerMetrics) {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	pool := func(role string, of func() pg.Stats) {
		labels := prometheus.Labels{"role": role}
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nofx_db_connections_in_use", Help: "Database connections in use.", ConstLabels: labels},
			func() float64 { return float64(of().InUse) }))
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nofx_db_connections_max", Help: "Database connections at most.", ConstLabels: labels},
			func() float64 { return float64(of().Max) }))
	}
	pool("nofx_api", func() pg.Stats { s, _ := db.Stats(); return s })
	pool("nofx_system", func() pg.Stats { _, s := db.Stats(); return s })
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nofx_claims_waiting", Help: "Claims of workers that wait for a step."},
		func() float64 { return float64(hub.Waiting()) }))
	b := breakerMetrics{db: db, changes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nofx_breaker_changes_total", Help: "Changes of circuit breakers that this replica made, by the new state."}, []string{"state", "handler", "driver"})}
	r.MustRegister(b.changes, b)
	return r, b
}

// breakerMetrics count changes of breakers, and look at all of them when they
// are asked.
type breakerMetrics struct {
	db      *pg.DB
	changes *prometheus.CounterVec
}

// Breaker counts a change.
func (b breakerMetrics) Breaker(state, handler, driver string) {
	b.changes.WithLabelValues(state, handler, driver).Inc()
}

func breakersDesc() *prometheus.Desc {
	return prometheus.NewDesc("nofx_breakers", "Circuit breakers that are not as new, by state.", []string{"state"}, nil)
}

// Describe and Collect are those of a prometheus.Collector.
func (b breakerMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- breakersDesc() }

func (b breakerMetrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	n := map[string]int64{}
	err := b.db.SystemQuery(ctx, func(q *pgdb.Queries) error {
		rows, err := q.CountHealth(ctx)
		for _, row := range rows {
			n[row.State] = row.N
		}
		return err
	})
	if err != nil {
		return // a database that is away shows in the health, and other metrics must not fail for it
	}
	for _, state := range []breaker.State{breaker.Closed, breaker.Open, breaker.HalfOpen} {
		ch <- prometheus.MustNewConstMetric(breakersDesc(), prometheus.GaugeValue, float64(n[string(state)]), string(state))
	}
}
