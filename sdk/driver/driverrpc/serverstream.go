package driverrpc

import (
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
	"github.com/nofx-run/nofx/sdk/step"
)

// sender is the sink that puts an exec's events on a stream. Send returns when
// the transport has taken the bytes, which is what slows a driver down whose
// reader is slow; the message and the driver's buffer are free again then.
func sender(s grpc.ServerStreamingServer[driverpb.ExecEvent]) driver.Sink {
	var m driverpb.ExecEvent
	return func(e driver.ExecEvent) error {
		if e.Exit != nil {
			return s.Send(&driverpb.ExecEvent{Offset: e.Offset, Exit: exitToPB(e.Exit)})
		}
		m.Stream = driverpb.Stream(e.Stream)
		for data, off := e.Data, e.Offset; len(data) > 0; {
			n := min(len(data), MaxChunk)
			m.Offset, m.Data = off, data[:n]
			if err := s.Send(&m); err != nil {
				return err
			}
			data, off = data[n:], off+int64(n)
		}
		return nil
	}
}

// Exec implements driverpb.DriverServer.
func (s *Server) Exec(r *driverpb.ExecRequest, stream grpc.ServerStreamingServer[driverpb.ExecEvent]) error {
	ctx, cancel := bound(stream.Context(), boundExec)
	defer cancel()
	h, err := checkHandle(r.GetHandle())
	if err != nil {
		return toStatus(err)
	}
	spec := execSpecFromPB(r.GetSpec())
	if err := spec.Validate(); err != nil {
		return toStatus(err)
	}
	return toStatus(s.driver.Exec(ctx, h, spec, sender(stream)))
}

// Attach implements driverpb.DriverServer.
func (s *Server) Attach(r *driverpb.AttachRequest, stream grpc.ServerStreamingServer[driverpb.ExecEvent]) error {
	ctx, cancel := bound(stream.Context(), boundExec)
	defer cancel()
	h, err := checkHandle(r.GetHandle())
	if err != nil {
		return toStatus(err)
	}
	if r.GetOffset() < 0 {
		return toStatus(step.Errorf(step.KindInvalid, "attach: offset %d", r.GetOffset()))
	}
	return toStatus(s.driver.Attach(ctx, h, r.GetExecId(), r.GetOffset(), sender(stream)))
}

// CopyIn implements driverpb.DriverServer.
func (s *Server) CopyIn(stream grpc.ClientStreamingServer[driverpb.CopyInRequest, driverpb.CopyInResponse]) error {
	ctx, cancel := bound(stream.Context(), boundCopy)
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		return toStatus(step.Errorf(step.KindInvalid, "copy in: no first message"))
	}
	h, err := checkHandle(first.GetHandle())
	if err != nil {
		return toStatus(err)
	}
	in := &tarReader{stream: stream, rest: first.GetData()}
	if err := s.driver.CopyIn(ctx, h, first.GetDir(), in); err != nil {
		return toStatus(err)
	}
	// What follows the archive's end is padding; read on to the end of the
	// stream, which tells a whole one from one that was given up.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return toStatus(err)
	}
	return stream.SendAndClose(&driverpb.CopyInResponse{})
}

// CopyOut implements driverpb.DriverServer.
func (s *Server) CopyOut(r *driverpb.CopyOutRequest, stream grpc.ServerStreamingServer[driverpb.CopyOutResponse]) error {
	ctx, cancel := bound(stream.Context(), boundCopy)
	defer cancel()
	h, err := checkHandle(r.GetHandle())
	if err != nil {
		return toStatus(err)
	}
	if r.GetLimit() < 0 {
		return toStatus(step.Errorf(step.KindInvalid, "copy out: limit %d", r.GetLimit()))
	}
	w := tarWriter(stream)
	if err := s.driver.CopyOut(ctx, h, r.GetPath(), r.GetLimit(), w); err != nil {
		return toStatus(err)
	}
	return w.Flush()
}

// Health implements driverpb.DriverServer.
func (s *Server) Health(_ *driverpb.HealthRequest, stream grpc.ServerStreamingServer[driverpb.HealthResponse]) error {
	return toStatus(s.driver.Health(stream.Context(), func(h driver.Health) error {
		return stream.Send(&driverpb.HealthResponse{Healthy: h.Healthy, Message: clean(h.Message)})
	}))
}

// List implements driverpb.DriverServer.
func (s *Server) List(r *driverpb.ListRequest, stream grpc.ServerStreamingServer[driverpb.ListResponse]) error {
	ctx, cancel := bound(stream.Context(), boundUnary)
	defer cancel()
	if r.GetOwner() == "" {
		return toStatus(step.Errorf(step.KindInvalid, "list: no owner"))
	}
	all, err := s.driver.List(ctx, r.GetOwner())
	if err != nil {
		return toStatus(err)
	}
	for _, l := range all {
		if err := stream.Send(listedToPB(l)); err != nil {
			return err
		}
	}
	return nil
}

// tarReader reads the bytes of a CopyIn.
type tarReader struct {
	stream grpc.ClientStreamingServer[driverpb.CopyInRequest, driverpb.CopyInResponse]
	rest   []byte
	err    error
}

func (t *tarReader) Read(p []byte) (int, error) {
	for len(t.rest) == 0 {
		if t.err != nil {
			return 0, t.err
		}
		m, err := t.stream.Recv()
		if err != nil && !errors.Is(err, io.EOF) {
			err = step.Errorf(step.KindUnavailable, "copy in: the archive broke off: %w", err)
		}
		t.rest, t.err = m.GetData(), err
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}
