package httpapi

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// stats are the metrics of requests.
type stats struct {
	requests *prometheus.HistogramVec
}

func newStats(r *prometheus.Registry) (*stats, error) {
	s := &stats{requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "nofx_api_request_duration_seconds", Help: "Time from a request to the end of its answer, by route and status.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"route", "status"})}
	return s, r.Register(s.requests)
}

func (s *stats) request(route string, status int, took time.Duration) {
	s.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
}
