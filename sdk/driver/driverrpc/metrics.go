package driverrpc

import (
	"context"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
	"github.com/nofx-run/nofx/sdk/step"
)

// boundMetrics is how long Metrics may take that came without a deadline.
const boundMetrics = 10 * time.Second

var _ driver.Metered = (*Client)(nil)

// Metrics implements driver.Metered; a driver that is not, or that speaks
// version 1, answers unsupported. The samples are as the driver gave them:
// driver.CheckSamples is the caller's.
func (c *Client) Metrics(ctx context.Context) ([]driver.Sample, error) {
	if c.version < versionMetrics {
		return nil, noMetrics(c.version)
	}
	r, err := c.pb.Metrics(ctx, &driverpb.MetricsRequest{})
	if err != nil {
		return nil, fromStatus(ctx, err)
	}
	samples := make([]driver.Sample, len(r.GetSamples()))
	for i, s := range r.GetSamples() {
		samples[i] = driver.Sample{Name: s.GetName(), Kind: driver.SampleKind(s.GetKind()), Labels: s.GetLabels(), Value: s.GetValue()}
	}
	return samples, nil
}

// Metrics implements driverpb.DriverServer.
func (s *Server) Metrics(ctx context.Context, _ *driverpb.MetricsRequest) (*driverpb.MetricsReply, error) {
	if s.version < versionMetrics {
		return nil, toStatus(noMetrics(s.version))
	}
	m, ok := s.driver.(driver.Metered)
	if !ok {
		return nil, toStatus(step.Errorf(step.KindUnsupported, "this driver counts nothing"))
	}
	ctx, cancel := bound(ctx, boundMetrics)
	defer cancel()
	samples, err := m.Metrics(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	r := &driverpb.MetricsReply{Samples: make([]*driverpb.Sample, len(samples))}
	for i, s := range samples {
		labels := make(map[string]string, len(s.Labels))
		for name, value := range s.Labels {
			labels[clean(name)] = clean(value)
		}
		r.Samples[i] = &driverpb.Sample{Name: clean(s.Name), Kind: clean(string(s.Kind)), Labels: labels, Value: s.Value}
	}
	return r, nil
}

func noMetrics(version int) error {
	return step.Errorf(step.KindUnsupported, "there are no metrics in protocol version %d", version)
}
