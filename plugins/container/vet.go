package container

import (
	"context"
	"crypto/rand"
	"path"
	"strings"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/nofx-run/nofx/internal/keylock"
	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/sdk/step"
)

// maxVetted bounds what is remembered of images.
const maxVetted = 10_000

// vetted remembers the images that were looked at and found good.
type vetted struct {
	locks keylock.Locks // by image
	mu    sync.Mutex
	good  map[string]bool
}

func (v *vetted) has(image string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.good[image]
}

func (v *vetted) add(image string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.good == nil || len(v.good) >= maxVetted {
		v.good = map[string]bool{}
	}
	v.good[image] = true
}

// boxOfLook begins the name that a container has for its sandbox that is only
// looked into; no sandbox's begins with a dot.
const boxOfLook = ".look-"

// vet refuses an image that could do harm before our PID 1 runs. The runtime follows
// the image's links when it mounts: with /workspace a link to where PID 1 comes from,
// or the other way round, a program that a step has left in the workspace would be
// run for PID 1, with its user and capabilities. And the engine reads the image's
// accounts itself: at a pipe it waits for ever, with the container held.
//
// An image never changes under its id, so each is looked at once, in a container of
// it that has no mounts and is never started.
func (d *Driver) vet(ctx context.Context, s *setup, image string) error {
	if d.vetted.has(image) {
		return nil
	}
	unlock, err := d.vetted.locks.Lock(ctx, image)
	if err != nil {
		return wrong("looking into the image", err)
	}
	defer unlock()
	if d.vetted.has(image) {
		return nil
	}
	volumes, _, err := s.engine.declared(ctx, image)
	if err != nil {
		return err
	}
	box := boxOfLook + strings.ToLower(rand.Text())
	c, h, err := looked(s, box, image, volumes)
	if err != nil {
		return err
	}
	id, err := s.engine.create(ctx, name(box), c, h)
	if err != nil {
		return err
	}
	err = s.fit(ctx, id)
	if _, gone := s.engine.remove(ctx, id); gone != nil {
		d.log.Warn("a container that was only looked into is left to the sweep", "container", name(box), "err", gone)
	}
	if err == nil {
		d.vetted.add(image)
	}
	return err
}

// accounts are what an engine itself reads of an image when it starts a container.
var accounts = [...]string{"/etc/passwd", "/etc/group"}

// fit refuses a container whose image has something where it may not.
func (s *setup) fit(ctx context.Context, id string) error {
	share, err := s.engine.at(ctx, id, contained.SharePath)
	if err != nil {
		return err
	}
	if share != nil {
		return step.Errorf(step.KindInvalid, "the image has something at %s, which is the sandbox's own", contained.SharePath)
	}
	workspace, err := s.engine.at(ctx, id, workspacePath)
	if err != nil {
		return err
	}
	if workspace != nil && !workspace.Mode.IsDir() {
		return step.Errorf(step.KindInvalid, "the image has a link or a file at %s, where the workspace goes", workspacePath)
	}
	for _, path := range accounts {
		file, err := s.engine.at(ctx, id, path)
		if err == nil && file != nil && file.LinkTarget != "" {
			file, err = s.engine.at(ctx, id, file.LinkTarget)
		}
		if err != nil {
			return err
		}
		if file != nil && !file.Mode.IsRegular() {
			return step.Errorf(step.KindInvalid, "the image's %s is no file", path)
		}
	}
	return nil
}

// looked is a container to look into. The engine would make the image's volumes in
// it, and folders for them, but for what is said to be in memory.
func looked(s *setup, box, image string, volumes []string) (*container.Config, *container.HostConfig, error) {
	memory := map[string]string{}
	for _, v := range volumes {
		at := path.Clean("/" + v)
		if at == contained.SharePath || strings.HasPrefix(at, contained.SharePath+"/") {
			return nil, nil, step.Errorf(step.KindInvalid, "the image declares a volume at %.200q, which is the sandbox's own", at)
		}
		memory[at] = ""
	}
	return &container.Config{
			Image: image, NetworkDisabled: true, Entrypoint: []string{"/none"},
			Labels: map[string]string{labelBox: box, labelState: s.config.StateDir},
		}, &container.HostConfig{
			NetworkMode: "none", ReadonlyRootfs: true, LogConfig: container.LogConfig{Type: "none"}, Tmpfs: memory,
		}, nil
}

// at tells what a container that does not run has at a path, itself and, as its
// LinkTarget, where it leads to in the end; nil is nothing.
func (e *engine) at(ctx context.Context, id, path string) (*container.PathStat, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := e.api.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: path})
	switch {
	case cerrdefs.IsNotFound(err):
		return nil, nil
	case cerrdefs.IsInternal(err): // such as links in a circle; an answer to HEAD has no text
		return nil, step.Errorf(step.KindInvalid, "the engine cannot tell what the image has at %s: %w", path, err)
	case err != nil:
		return nil, wrong("looking for "+path+" in the image", err)
	}
	return &r.Stat, nil
}
