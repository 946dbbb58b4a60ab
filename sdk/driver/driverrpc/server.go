package driverrpc

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
	"github.com/nofx-run/nofx/sdk/step"
)

// How long a call may take that came without a deadline.
const (
	boundUnary = 5 * time.Minute
	boundCopy  = time.Hour
	boundExec  = 24 * time.Hour // then it detaches; the exec goes on
)

// Server serves a driver over gRPC.
type Server struct {
	driverpb.UnimplementedDriverServer
	driver   driver.Driver
	version  int   // of the protocol
	versions []int // that could have been settled on
}

var _ driverpb.DriverServer = (*Server)(nil)

// NewServer serves d in the newest version. Register it on a gRPC server made
// with ServerOptions.
func NewServer(d driver.Driver) *Server {
	return &Server{driver: d, version: ProtocolVersion, versions: Versions()}
}

// bound gives ctx a deadline if the caller sent none.
func bound(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}

// checkHandle refuses what no driver can have given out.
func checkHandle(p *driverpb.Handle) (driver.Handle, error) {
	h := handleFromPB(p)
	if h.ID == "" || len(h.ID) > 128 || len(h.Data) > driver.MaxHandle {
		return h, step.Errorf(step.KindInvalid, "not a handle: id %.140q, %d bytes", h.ID, len(h.Data))
	}
	return h, nil
}

// Describe implements driverpb.DriverServer.
func (s *Server) Describe(ctx context.Context, _ *driverpb.DescribeRequest) (*driverpb.DescribeResponse, error) {
	ctx, cancel := bound(ctx, boundUnary)
	defer cancel()
	d, err := s.driver.Describe(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	r := &driverpb.DescribeResponse{Name: d.Name, Version: d.Version, ConfigSchema: d.ConfigSchema, Warnings: d.Warnings}
	for _, v := range s.versions { // whatever the driver says
		r.ProtocolVersions = append(r.ProtocolVersions, int32(v))
	}
	for _, c := range d.Capabilities {
		r.Capabilities = append(r.Capabilities, string(c))
	}
	return r, nil
}

// Configure implements driverpb.DriverServer.
func (s *Server) Configure(ctx context.Context, r *driverpb.ConfigureRequest) (*driverpb.ConfigureResponse, error) {
	ctx, cancel := bound(ctx, boundUnary)
	defer cancel()
	if !json.Valid(r.GetConfig()) {
		return nil, toStatus(step.Errorf(step.KindInvalid, "the configuration is not JSON"))
	}
	return &driverpb.ConfigureResponse{}, toStatus(s.driver.Configure(ctx, r.GetConfig()))
}

// Create implements driverpb.DriverServer.
func (s *Server) Create(ctx context.Context, r *driverpb.CreateRequest) (*driverpb.CreateResponse, error) {
	ctx, cancel := bound(ctx, boundUnary)
	defer cancel()
	spec := specFromPB(r.GetSpec())
	if err := spec.Validate(); err != nil {
		return nil, toStatus(err)
	}
	h, err := s.driver.Create(ctx, spec)
	if err != nil {
		return nil, toStatus(err)
	}
	return &driverpb.CreateResponse{Handle: handleToPB(h)}, nil
}

// Recover implements driverpb.DriverServer.
func (s *Server) Recover(ctx context.Context, r *driverpb.RecoverRequest) (*driverpb.RecoverResponse, error) {
	ctx, cancel := bound(ctx, boundUnary)
	defer cancel()
	h, err := checkHandle(r.GetHandle())
	if err != nil {
		return nil, toStatus(err)
	}
	state, err := s.driver.Recover(ctx, h)
	if err != nil {
		return nil, toStatus(err)
	}
	return stateToPB(state), nil
}

// Extend implements driverpb.DriverServer.
func (s *Server) Extend(ctx context.Context, r *driverpb.ExtendRequest) (*driverpb.ExtendResponse, error) {
	ctx, cancel := bound(ctx, boundUnary)
	defer cancel()
	h, err := checkHandle(r.GetHandle())
	if err != nil {
		return nil, toStatus(err)
	}
	return &driverpb.ExtendResponse{}, toStatus(s.driver.Extend(ctx, h, driver.Deadline(r.GetUntilBoottimeNs())))
}

// Signal implements driverpb.DriverServer.
func (s *Server) Signal(ctx context.Context, r *driverpb.SignalRequest) (*driverpb.SignalResponse, error) {
	ctx, cancel := bound(ctx, boundUnary)
	defer cancel()
	h, err := checkHandle(r.GetHandle())
	if err != nil {
		return nil, toStatus(err)
	}
	return &driverpb.SignalResponse{}, toStatus(s.driver.Signal(ctx, h, r.GetExecId(), r.GetSignal()))
}

// Stop implements driverpb.DriverServer.
func (s *Server) Stop(ctx context.Context, r *driverpb.StopRequest) (*driverpb.StopResponse, error) {
	grace := durationFromPB(r.GetGrace())
	ctx, cancel := bound(ctx, max(grace, 0)+boundUnary)
	defer cancel()
	h, err := checkHandle(r.GetHandle())
	if err != nil {
		return nil, toStatus(err)
	}
	cause := step.Cause(r.GetCause())
	if grace < 0 || cause != step.CauseCancelled && cause != step.CauseTimeout {
		return nil, toStatus(step.Errorf(step.KindInvalid, "stop: grace %v, cause %.40q", grace, cause))
	}
	return &driverpb.StopResponse{}, toStatus(s.driver.Stop(ctx, h, grace, cause))
}

// Destroy implements driverpb.DriverServer.
func (s *Server) Destroy(ctx context.Context, r *driverpb.DestroyRequest) (*driverpb.DestroyResponse, error) {
	ctx, cancel := bound(ctx, boundUnary)
	defer cancel()
	h, err := checkHandle(r.GetHandle())
	if err != nil {
		return nil, toStatus(err)
	}
	return &driverpb.DestroyResponse{}, toStatus(s.driver.Destroy(ctx, h))
}

// Stats implements driverpb.DriverServer.
func (s *Server) Stats(ctx context.Context, r *driverpb.StatsRequest) (*driverpb.StatsResponse, error) {
	ctx, cancel := bound(ctx, boundUnary)
	defer cancel()
	h, err := checkHandle(r.GetHandle())
	if err != nil {
		return nil, toStatus(err)
	}
	st, err := s.driver.Stats(ctx, h)
	if err != nil {
		return nil, toStatus(err)
	}
	return statsToPB(st), nil
}

// Invoke implements driverpb.DriverServer.
func (s *Server) Invoke(ctx context.Context, r *driverpb.InvokeRequest) (*driverpb.InvokeResponse, error) {
	inv, ok := s.driver.(driver.Invoker)
	if !ok {
		return nil, toStatus(step.Errorf(step.KindUnsupported, "this driver runs no functions"))
	}
	timeout := durationFromPB(r.GetTimeout())
	ctx, cancel := bound(ctx, max(timeout, 0)+boundUnary)
	defer cancel()
	resp, err := inv.Invoke(ctx, driver.Invocation{ID: r.GetId(), Tags: tagsFromPB(r.GetTags()), Body: r.GetBody(), Timeout: timeout})
	if err != nil {
		return nil, toStatus(err)
	}
	return &driverpb.InvokeResponse{Body: resp.Body, Exit: exitToPB(&resp.Exit)}, nil
}

func listedToPB(l driver.Listed) *driverpb.ListResponse {
	return &driverpb.ListResponse{
		Handle: handleToPB(l.Handle), Tags: tagsToPB(l.Tags), Phase: string(l.Phase), CreatedAt: timestamppb.New(l.CreatedAt),
	}
}
