package container

import (
	"context"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

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
		return wrong("pull "+name, err)
	}
	defer r.Close()
	if err := r.Wait(ctx); err != nil {
		return wrong("pull "+name, err)
	}
	return nil
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
	unlock, err := d.pulls.Lock(ctx, full) // one pull of an image at a time
	if err != nil {
		return "", err
	}
	defer unlock()
	id, err := s.engine.image(ctx, full)
	if err != nil {
		return "", err
	}
	switch {
	case s.config.Pull == PullNever && id == "":
		return "", step.Errorf(step.KindNotFound, "image %s is not on this host, and the policy is not to fetch it", full)
	case s.config.Pull == PullNever, s.config.Pull == PullMissing && id != "":
		d.used(s, id, false)
		return id, nil
	}
	began := time.Now()
	err = s.engine.pull(ctx, full)
	d.counts.pull(time.Since(began), err)
	if err != nil {
		return "", err
	}
	if id, err = s.engine.image(ctx, full); err != nil {
		return "", err
	}
	if id == "" {
		return "", step.Errorf(step.KindUnavailable, "image %s was fetched and is not there", full)
	}
	d.used(s, id, true)
	return id, nil
}
