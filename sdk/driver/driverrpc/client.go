package driverrpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
	"github.com/nofx-run/nofx/sdk/step"
)

// Bounds of the answer of one List.
const (
	maxListed      = 1 << 20
	maxListedBytes = 128 << 20 // in handles and tags
)

// Client is a driver at the other end of a gRPC connection.
type Client struct {
	pb      driverpb.DriverClient
	version int // of the protocol
}

var (
	_ driver.Driver  = (*Client)(nil)
	_ driver.Invoker = (*Client)(nil)
)

// NewClient makes a client of the newest version on a connection that was
// dialled with DialOptions. The connection stays the caller's.
func NewClient(conn grpc.ClientConnInterface) *Client { return newClient(conn, ProtocolVersion) }

func newClient(conn grpc.ClientConnInterface, version int) *Client {
	return &Client{pb: driverpb.NewDriverClient(conn), version: version}
}

// Version is the version of the protocol that it speaks.
func (c *Client) Version() int { return c.version }

// Describe implements driver.Driver.
func (c *Client) Describe(ctx context.Context) (driver.Description, error) {
	r, err := c.pb.Describe(ctx, &driverpb.DescribeRequest{})
	if err != nil {
		return driver.Description{}, fromStatus(ctx, err)
	}
	d := driver.Description{Name: r.GetName(), Version: r.GetVersion(), ConfigSchema: r.GetConfigSchema(), Warnings: r.GetWarnings()}
	for _, v := range r.GetProtocolVersions() {
		d.ProtocolVersions = append(d.ProtocolVersions, int(v))
	}
	for _, name := range r.GetCapabilities() {
		d.Capabilities = append(d.Capabilities, driver.Capability(name))
	}
	return d, nil
}

// Configure implements driver.Driver.
func (c *Client) Configure(ctx context.Context, config json.RawMessage) error {
	_, err := c.pb.Configure(ctx, &driverpb.ConfigureRequest{Config: config})
	return fromStatus(ctx, err)
}

// Create implements driver.Driver.
func (c *Client) Create(ctx context.Context, spec driver.Spec) (driver.Handle, error) {
	if err := spec.Validate(); err != nil {
		return driver.Handle{}, err
	}
	r, err := c.pb.Create(ctx, &driverpb.CreateRequest{Spec: specToPB(spec)})
	if err != nil {
		return driver.Handle{}, fromStatus(ctx, err)
	}
	h := handleFromPB(r.GetHandle())
	if h.ID != spec.ID || len(h.Data) > driver.MaxHandle {
		return driver.Handle{}, step.Errorf(step.KindInternal, "the driver answered with a handle for %.140q of %d bytes", h.ID, len(h.Data))
	}
	return h, nil
}

// Recover implements driver.Driver.
func (c *Client) Recover(ctx context.Context, h driver.Handle) (driver.State, error) {
	r, err := c.pb.Recover(ctx, &driverpb.RecoverRequest{Handle: handleToPB(h)})
	if err != nil {
		return driver.State{}, fromStatus(ctx, err)
	}
	return stateFromPB(r), nil
}

// Extend implements driver.Driver.
func (c *Client) Extend(ctx context.Context, h driver.Handle, until driver.Deadline) error {
	_, err := c.pb.Extend(ctx, &driverpb.ExtendRequest{Handle: handleToPB(h), UntilBoottimeNs: int64(until)})
	return fromStatus(ctx, err)
}

// Exec implements driver.Driver.
func (c *Client) Exec(ctx context.Context, h driver.Handle, spec driver.ExecSpec, sink driver.Sink) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	for _, list := range [][]string{spec.Argv, spec.Env, {spec.Cwd, spec.User}} {
		for _, s := range list {
			if !utf8.ValidString(s) {
				return step.Errorf(step.KindInvalid, "exec %s: an argument, a variable or the cwd is not UTF-8", spec.ID)
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.pb.Exec(ctx, &driverpb.ExecRequest{Handle: handleToPB(h), Spec: execSpecToPB(spec)})
	if err != nil {
		return fromStatus(ctx, err)
	}
	return receive(ctx, s, 0, sink)
}

// Attach implements driver.Driver.
func (c *Client) Attach(ctx context.Context, h driver.Handle, execID string, offset int64, sink driver.Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.pb.Attach(ctx, &driverpb.AttachRequest{Handle: handleToPB(h), ExecId: execID, Offset: offset})
	if err != nil {
		return fromStatus(ctx, err)
	}
	return receive(ctx, s, offset, sink)
}

// Signal implements driver.Driver.
func (c *Client) Signal(ctx context.Context, h driver.Handle, execID, signal string) error {
	_, err := c.pb.Signal(ctx, &driverpb.SignalRequest{Handle: handleToPB(h), ExecId: execID, Signal: signal})
	return fromStatus(ctx, err)
}

// Stop implements driver.Driver.
func (c *Client) Stop(ctx context.Context, h driver.Handle, grace time.Duration, cause step.Cause) error {
	_, err := c.pb.Stop(ctx, &driverpb.StopRequest{Handle: handleToPB(h), Grace: durationpb.New(grace), Cause: string(cause)})
	return fromStatus(ctx, err)
}

// Destroy implements driver.Driver.
func (c *Client) Destroy(ctx context.Context, h driver.Handle) error {
	_, err := c.pb.Destroy(ctx, &driverpb.DestroyRequest{Handle: handleToPB(h)})
	return fromStatus(ctx, err)
}

// Stats implements driver.Driver.
func (c *Client) Stats(ctx context.Context, h driver.Handle) (driver.Stats, error) {
	r, err := c.pb.Stats(ctx, &driverpb.StatsRequest{Handle: handleToPB(h)})
	if err != nil {
		return driver.Stats{}, fromStatus(ctx, err)
	}
	return statsFromPB(r), nil
}

// Health implements driver.Driver.
func (c *Client) Health(ctx context.Context, sink func(driver.Health) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.pb.Health(ctx, &driverpb.HealthRequest{})
	if err != nil {
		return fromStatus(ctx, err)
	}
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return step.Errorf(step.KindUnavailable, "the driver ended its health stream")
		}
		if err != nil {
			return fromStatus(ctx, err)
		}
		if err := sink(driver.Health{Healthy: r.GetHealthy(), Message: clean(r.GetMessage())}); err != nil {
			return err
		}
	}
}

// List implements driver.Driver.
func (c *Client) List(ctx context.Context, owner string) ([]driver.Listed, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.pb.List(ctx, &driverpb.ListRequest{Owner: owner})
	if err != nil {
		return nil, fromStatus(ctx, err)
	}
	var all []driver.Listed
	size := 0
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fromStatus(ctx, err)
		}
		h := r.GetHandle()
		size += len(h.GetDriver()) + len(h.GetId()) + len(h.GetData()) + len(r.GetTags().GetOwner()) + len(r.GetTags().GetId()) + len(r.GetPhase())
		if len(all) == maxListed || size > maxListedBytes {
			return nil, step.Errorf(step.KindInternal, "the driver lists more than %d sandboxes, or %d bytes", maxListed, maxListedBytes)
		}
		// What is listed may end in the word of a host to its API.
		if (driver.Spec{ID: h.GetId(), Tags: driver.Tags{Owner: "x", ID: "x"}}).Validate() != nil || len(h.GetData()) > driver.MaxHandle {
			return nil, step.Errorf(step.KindInternal, "the driver lists a sandbox with an impossible handle: id %.140q, %d bytes", h.GetId(), len(h.GetData()))
		}
		l := driver.Listed{Handle: handleFromPB(r.GetHandle()), Tags: tagsFromPB(r.GetTags()), Phase: driver.Phase(r.GetPhase())}
		if r.GetCreatedAt() != nil {
			l.CreatedAt = r.GetCreatedAt().AsTime()
		}
		all = append(all, l)
	}
}

// Invoke implements driver.Invoker; a driver that does not answers unsupported.
func (c *Client) Invoke(ctx context.Context, req driver.Invocation) (driver.Response, error) {
	r, err := c.pb.Invoke(ctx, &driverpb.InvokeRequest{
		Id: req.ID, Tags: tagsToPB(req.Tags), Body: req.Body, Timeout: durationpb.New(req.Timeout),
	})
	if err != nil {
		return driver.Response{}, fromStatus(ctx, err)
	}
	x := exitFromPB(r.GetExit())
	if x == nil {
		return driver.Response{}, step.Errorf(step.KindInternal, "the driver answered without an exit")
	}
	return driver.Response{Body: r.GetBody(), Exit: *x}, nil
}
