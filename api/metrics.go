package api

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/wake"
)

// newRegistry makes the metrics of what runs behind the routes.
func newRegistry(db *pg.DB, hub *wake.Hub) *prometheus.Registry {
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
	return r
}
