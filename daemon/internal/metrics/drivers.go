package metrics

import (
	"context"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Source is where drivers come from: the plugin host.
type Source interface {
	Driver(name string) (driver.Driver, error)
	Infos() []wire.DriverInfo
}

// calls are the metrics of the calls to drivers.
type calls struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	running *prometheus.GaugeVec
}

func newCalls() *calls {
	return &calls{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nofx_driver_calls_total",
			Help: "Calls to drivers that have ended, by what they asked for and the kind of their error (ok: none)."}, []string{"driver", "call", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "nofx_driver_call_seconds",
			Help: "How long drivers took to create, stop and destroy sandboxes and to move files.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 9)}, []string{"driver", "call"}),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "nofx_driver_execs_running",
			Help: "Execs whose output is being followed."}, []string{"driver"}),
	}
}

func (c *calls) collectors() []prometheus.Collector {
	return []prometheus.Collector{c.total, c.seconds, c.running}
}

// Drivers gives the drivers of a source with their calls measured.
func (m *Metrics) Drivers(s Source) Source { return measuredSource{s, m.calls} }

type measuredSource struct {
	Source
	calls *calls
}

// Driver implements Source.
func (s measuredSource) Driver(name string) (driver.Driver, error) {
	d, err := s.Source.Driver(name)
	if err != nil {
		return nil, err
	}
	return measured{d, name, s.calls}, nil
}

// measured is a driver whose calls are counted.
type measured struct {
	driver.Driver
	name  string
	calls *calls
}

func (d measured) count(call string, err error) {
	result := "ok"
	if err != nil {
		result = string(step.KindOf(err))
	}
	d.calls.total.WithLabelValues(d.name, call, result).Inc()
}

// timed counts a call and how long it took.
func (d measured) timed(call string, f func() error) error {
	began := time.Now()
	err := f()
	d.calls.seconds.WithLabelValues(d.name, call).Observe(time.Since(began).Seconds())
	d.count(call, err)
	return err
}

// followed counts a call that lasts as long as its exec.
func (d measured) followed(call string, f func() error) error {
	running := d.calls.running.WithLabelValues(d.name)
	running.Inc()
	defer running.Dec()
	err := f()
	d.count(call, err)
	return err
}

func (d measured) Create(ctx context.Context, spec driver.Spec) (h driver.Handle, err error) {
	err = d.timed("create", func() error {
		h, err = d.Driver.Create(ctx, spec)
		return err
	})
	return h, err
}

func (d measured) Recover(ctx context.Context, h driver.Handle) (s driver.State, err error) {
	err = d.timed("recover", func() error {
		s, err = d.Driver.Recover(ctx, h)
		return err
	})
	return s, err
}

func (d measured) Exec(ctx context.Context, h driver.Handle, spec driver.ExecSpec, sink driver.Sink) error {
	return d.followed("exec", func() error { return d.Driver.Exec(ctx, h, spec, sink) })
}

func (d measured) Attach(ctx context.Context, h driver.Handle, exec string, offset int64, sink driver.Sink) error {
	return d.followed("attach", func() error { return d.Driver.Attach(ctx, h, exec, offset, sink) })
}

func (d measured) Stop(ctx context.Context, h driver.Handle, grace time.Duration, cause step.Cause) error {
	return d.timed("stop", func() error { return d.Driver.Stop(ctx, h, grace, cause) })
}

func (d measured) Destroy(ctx context.Context, h driver.Handle) error {
	return d.timed("destroy", func() error { return d.Driver.Destroy(ctx, h) })
}

func (d measured) CopyIn(ctx context.Context, h driver.Handle, dir string, tar io.Reader) error {
	return d.timed("copy_in", func() error { return d.Driver.CopyIn(ctx, h, dir, tar) })
}

func (d measured) CopyOut(ctx context.Context, h driver.Handle, path string, limit int64, tar io.Writer) error {
	return d.timed("copy_out", func() error { return d.Driver.CopyOut(ctx, h, path, limit, tar) })
}

// Invoke implements driver.Invoker for drivers that do.
func (d measured) Invoke(ctx context.Context, req driver.Invocation) (r driver.Response, err error) {
	inv, ok := d.Driver.(driver.Invoker)
	if !ok {
		return r, step.Errorf(step.KindUnsupported, "driver %s runs no functions", d.name)
	}
	err = d.timed("invoke", func() error {
		r, err = inv.Invoke(ctx, req)
		return err
	})
	return r, err
}
