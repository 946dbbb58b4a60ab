package client

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// stream sends a call whose answer may take any time in all, but is given up
// when nothing of it has come for too long: the other end may be stopped, or
// beyond a network that is gone.
func (c *Client) stream(ctx context.Context, r call) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	silent := step.Errorf(step.KindUnavailable, "nothing has come for %v", c.silence)
	timer := time.AfterFunc(c.silence, func() { cancel(silent) })
	resp, err := c.do(ctx, r) //nolint:bodyclose // whoever reads it closes it
	timer.Stop()
	if err != nil {
		cancel(nil)
		return nil, err
	}
	return &watched{ReadCloser: resp.Body, silence: c.silence, path: r.path, done: cancel}, nil
}

// watched is the body of such an answer.
type watched struct {
	io.ReadCloser
	silence time.Duration
	path    string
	done    context.CancelCauseFunc
	silent  atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	timer := time.AfterFunc(w.silence, func() {
		w.silent.Store(true)
		_ = w.ReadCloser.Close() // ends the read
	})
	defer timer.Stop()
	n, err := w.ReadCloser.Read(p)
	if err != nil && w.silent.Load() {
		err = step.Errorf(step.KindUnavailable, "%s: nothing has come for %v", w.path, w.silence)
	}
	return n, err
}

func (w *watched) Close() error {
	defer w.done(nil)
	return w.ReadCloser.Close()
}
