package container

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/nofx-run/nofx/sdk/step"
)

// workspacePath is where a sandbox shows the workspace.
const workspacePath = "/workspace"

// declared is what an image declares: the paths of its volumes, and the names of the
// variables that its programs are to have.
func (e *engine) declared(ctx context.Context, image string) (volumes, variables []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := e.api.ImageInspect(ctx, image)
	if err != nil {
		return nil, nil, wrong("image", err)
	}
	if r.Config == nil {
		return nil, nil, nil
	}
	for _, v := range r.Config.Env {
		name, _, _ := strings.Cut(v, "=")
		variables = append(variables, name)
	}
	return slices.Sorted(maps.Keys(r.Config.Volumes)), variables, nil
}

// maxVolumes is how many volumes of an image become scratch folders.
const maxVolumes = 16

// scratchFor has the volumes that an image declares be scratch folders like /tmp,
// within the step's memory: the engine would make them on its own disk, where no cap
// bounds what a step writes. What the sandbox mounts itself takes their place.
func scratchFor(h *container.HostConfig, volumes []string, scratch string) error {
	if len(volumes) > maxVolumes {
		return step.Errorf(step.KindInvalid, "the image declares %d volumes; at most %d are taken", len(volumes), maxVolumes)
	}
	for _, v := range volumes {
		at := path.Clean("/" + v)
		_, have := h.Tmpfs[at]
		switch {
		case have || slices.ContainsFunc(h.Mounts, func(m mount.Mount) bool { return m.Target == at }):
			continue
		case strings.HasPrefix(at, workspacePath+"/"):
			return step.Errorf(step.KindInvalid, "the image declares a volume at %.200q, in the step's own workspace", at)
		case at == "/dev/shm":
			h.Tmpfs[at] = fmt.Sprintf("rw,nosuid,nodev,noexec,size=%d,mode=1777", h.ShmSize)
		default:
			h.Tmpfs[at] = scratch + ",mode=1777"
		}
	}
	return nil
}
