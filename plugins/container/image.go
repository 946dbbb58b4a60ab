package container

import (
	"context"
	"errors"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// image gives the id of the image of that full name, "" when it is not there.
func (e *engine) image(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := e.api.ImageInspect(ctx, name)
	if cerrdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", wrong("image", err)
	}
	return r.ID, nil
}

// pull has the engine fetch an image.
func (e *engine) pull(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	r, err := e.api.ImagePull(ctx, name, client.ImagePullOptions{})
	if err != nil {
		return unfetched(name, err)
	}
	defer r.Close()
	if err := r.Wait(ctx); err != nil {
		return unfetched(name, err)
	}
	return nil
}

// unfetched is why an image did not come. An engine says of whatever a registry did
// that it is its own fault. But the step has named the registry, and what is wrong
// with that says nothing of the driver: no breaker may count it.
func unfetched(name string, err error) error {
	e := wrong("pull "+name, err)
	if step.Is(e, step.KindInternal) && !strings.Contains(err.Error(), unix.ENOSPC.Error()) {
		return step.Errorf(step.KindNotFound, "image %s cannot be fetched: %w", name, err)
	}
	return e
}

// unready is why a call does not wait for a pull any more. It is no failure: the
// pull goes on, and takes as long as its registry does.
func unready(name string, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return wrong("pull "+name, err)
	}
	return &step.Error{Kind: step.KindRateLimited, Message: "image " + name + " is still being fetched", Err: err, RetryAfter: 10 * time.Second}
}

// imageFor gives the id of the image that a step runs on, fetched as the
// policy says. From then on the name may come to mean another.
func (d *Driver) imageFor(ctx context.Context, s *setup, name string) (string, error) {
	if name == "" {
		name = s.config.Image
	}
	if name == "" {
		return "", step.Errorf(step.KindInvalid, "the step names no image, and the driver's configuration has no default")
	}
	full, err := s.config.admit(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := early(ctx)
	defer cancel()
	unlock, err := d.pulls.Lock(ctx, full) // one pull of an image at a time
	if err != nil {
		return "", unready(full, err)
	}
	id, err := s.engine.image(ctx, full)
	switch {
	case err != nil:
	case s.config.Pull == PullNever && id == "":
		err = step.Errorf(step.KindNotFound, "image %s is not on this host, and the policy is not to fetch it", full)
	case s.config.Pull == PullNever, s.config.Pull == PullMissing && id != "":
		d.used(s, id, full, false)
	default:
		return d.fetch(ctx, s, full, unlock)
	}
	unlock()
	if err != nil {
		return "", err
	}
	return id, nil
}

// early ends a moment before the call does, so that its caller still hears why.
func early(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, end.Add(-time.Until(end)/10))
}

// fetch pulls an image and gives its id. The pull may take longer than the call
// that needs it: it then goes on, for the next one to wait for or to find done.
func (d *Driver) fetch(ctx context.Context, s *setup, full string, unlock func()) (string, error) {
	type pulled struct {
		id  string
		err error
	}
	done := make(chan pulled, 1)
	go func() {
		defer unlock()
		ctx, cancel := lasting(ctx, pullTimeout+askTimeout)
		defer cancel()
		id, err := d.pull(ctx, s, full)
		done <- pulled{id, err}
	}()
	select {
	case p := <-done:
		return p.id, p.err
	case <-ctx.Done():
		return "", unready(full, ctx.Err())
	}
}

func (d *Driver) pull(ctx context.Context, s *setup, full string) (string, error) {
	began := time.Now()
	err := s.engine.pull(ctx, full)
	d.counts.pull(time.Since(began), err)
	if err != nil {
		return "", err
	}
	id, err := s.engine.image(ctx, full)
	if err != nil {
		return "", err
	}
	if id == "" {
		return "", step.Errorf(step.KindUnavailable, "image %s was fetched and is not there", full)
	}
	d.used(s, id, full, true)
	return id, nil
}
