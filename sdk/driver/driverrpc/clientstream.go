package driverrpc

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
	"github.com/nofx-run/nofx/sdk/step"
)

// receive hands the events of a stream to sink. It insists on what the
// contract promises: each output begins where the one before ended, and the
// last event carries the exit.
func receive(ctx context.Context, s grpc.ServerStreamingClient[driverpb.ExecEvent], next int64, sink driver.Sink) error {
	for {
		// Each event gets memory of its own, so that a sink may keep it.
		m, err := s.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return step.Errorf(step.KindUnavailable, "the output stream broke off at byte %d without an exit", next)
		case err != nil:
			return fromStatus(ctx, err)
		}
		if x := exitFromPB(m.GetExit()); x != nil {
			if !possible(x) {
				return step.Errorf(step.KindInternal, "the driver reports an impossible end: cause %.40q, code %d, signal %.40q, attested by %.40q", x.Cause, x.Code, x.Signal, x.Attested)
			}
			return sink(driver.ExecEvent{Offset: m.GetOffset(), Exit: x})
		}
		data := m.GetData()
		if len(data) == 0 {
			continue
		}
		if m.GetOffset() != next {
			return step.Errorf(step.KindInternal, "the driver lost output: byte %d follows byte %d", m.GetOffset(), next)
		}
		if m.GetStream() != driverpb.Stream_STREAM_STDOUT && m.GetStream() != driverpb.Stream_STREAM_STDERR {
			return step.Errorf(step.KindInternal, "the driver sent output of stream %d", m.GetStream())
		}
		next += int64(len(data))
		if err := sink(driver.ExecEvent{Stream: driver.Stream(m.GetStream()), Offset: m.GetOffset(), Data: data}); err != nil {
			return err
		}
	}
}

// possible reports whether a program can have ended so: a verdict is made of it.
func possible(x *driver.Exit) bool {
	signal := (x.Cause != step.CauseSignal || x.Signal != "") && len(x.Signal) <= maxSignal &&
		strings.IndexFunc(x.Signal, func(r rune) bool { return r < ' ' || r > '~' }) < 0
	return x.Cause.Valid() && x.Code >= -1 && x.Code <= 255 && signal &&
		(x.Attested == step.AttestedKernel || x.Attested == step.AttestedVendor || x.Attested == step.AttestedGuest)
}

// maxSignal bounds a signal's name, in bytes.
const maxSignal = 64

// CopyIn implements driver.Driver.
func (c *Client) CopyIn(ctx context.Context, h driver.Handle, dir string, tar io.Reader) error {
	if !utf8.ValidString(dir) {
		return step.Errorf(step.KindInvalid, "the folder's name is not UTF-8")
	}
	// Whatever goes wrong on this side must reach the driver as a cancelled
	// call: a plain end of stream would look like a whole archive.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.pb.CopyIn(ctx)
	if err != nil {
		return fromStatus(ctx, err)
	}
	m := &driverpb.CopyInRequest{Handle: handleToPB(h), Dir: dir}
	buf := make([]byte, MaxChunk)
	for {
		if err := s.Send(m); errors.Is(err, io.EOF) {
			break // the driver has answered already
		} else if err != nil {
			return fromStatus(ctx, err)
		}
		n, err := io.ReadFull(tar, buf)
		if n > 0 {
			m = &driverpb.CopyInRequest{Data: buf[:n]}
			if err == nil {
				continue
			}
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if n > 0 {
			if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) {
				return fromStatus(ctx, err)
			}
		}
		break
	}
	_, err = s.CloseAndRecv()
	return fromStatus(ctx, err)
}

// CopyOut implements driver.Driver.
func (c *Client) CopyOut(ctx context.Context, h driver.Handle, path string, limit int64, tar io.Writer) error {
	if !utf8.ValidString(path) {
		return step.Errorf(step.KindInvalid, "the path is not UTF-8")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.pb.CopyOut(ctx, &driverpb.CopyOutRequest{Handle: handleToPB(h), Path: path, Limit: limit})
	if err != nil {
		return fromStatus(ctx, err)
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fromStatus(ctx, err)
		}
		if _, err := tar.Write(m.GetData()); err != nil {
			return err
		}
	}
}

// tarWriter sends what is written to it in chunks.
func tarWriter(s grpc.ServerStreamingServer[driverpb.CopyOutResponse]) *bufio.Writer {
	return bufio.NewWriterSize(writerFunc(func(p []byte) (int, error) {
		for sent := 0; sent < len(p); {
			n := min(len(p)-sent, MaxChunk)
			if err := s.Send(&driverpb.CopyOutResponse{Data: p[sent : sent+n]}); err != nil {
				return sent, err
			}
			sent += n
		}
		return len(p), nil
	}), MaxChunk)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
