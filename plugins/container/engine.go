package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Labels of what is ours in an engine, set when it is made.
const (
	labelOwner = "nofx_owner" // the installation
	labelTag   = "nofx_id"    // tenant, run, step, … packed
	labelBox   = "nofx_sandbox"
	labelState = "nofx_state_dir"
)

// How long the engine may take.
const (
	askTimeout  = 10 * time.Second // to tell something
	workTimeout = 60 * time.Second // to make, start or remove a container
	pullTimeout = 15 * time.Minute
)

// removeTries is how often a removal is asked for that the engine fails at.
// Engine 20.10 fails at one whose container ends by itself in that moment.
const removeTries = 5

// engine is what this driver needs of a Docker Engine. Each call has a bound of
// its own; the errors are the house's.
type engine struct{ api *client.Client }

// info is what an engine says of itself.
type info struct {
	id       string // what it is known by, at each of its addresses
	version  string
	systemd  bool // its control groups are units of systemd's
	remaps   bool // root in its containers is not the host's
	podman   bool
	runtimes map[string]bool
}

// found is a container of ours.
type found struct {
	id      string // the engine's
	box     string
	state   string // folder of the sandboxes that it is of
	tags    driver.Tags
	created time.Time
	running bool
}

// seen is a container's state.
type seen struct {
	running bool
	pid     int
	oom     bool
	exit    int
	err     string
	memory  int64 // its cap, bytes
}

func openEngine(host string) (*engine, error) {
	api, err := client.New(client.WithHost(host), client.WithUserAgent("nofx-driver-container"))
	if err != nil {
		return nil, step.Errorf(step.KindInvalid, "configuration: host: %w", err)
	}
	return &engine{api}, nil
}

func (e *engine) close() { _ = e.api.Close() }

// wrong gives an engine's error the house's kind.
func wrong(what string, err error) error {
	kind := step.KindInternal
	var ne net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case cerrdefs.IsNotFound(err):
		kind = step.KindNotFound
	case cerrdefs.IsInvalidArgument(err):
		kind = step.KindInvalid
	case cerrdefs.IsConflict(err):
		kind = step.KindConflict
	case cerrdefs.IsUnauthorized(err):
		kind = step.KindUnauthorized
	case cerrdefs.IsPermissionDenied(err):
		kind = step.KindForbidden
	case client.IsErrConnectionFailed(err), cerrdefs.IsUnavailable(err), errors.As(err, &ne), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		kind = step.KindUnavailable
	}
	return step.Errorf(kind, "the container engine: %s: %w", what, err)
}

// lasting bounds what must come to its end though the caller goes away: a
// creation that nobody waits for would leave a container that nobody knows.
func lasting(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}

func (e *engine) info(ctx context.Context) (info, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := e.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return info{}, wrong("info", err)
	}
	i := info{version: r.Info.ServerVersion, systemd: r.Info.CgroupDriver == "systemd", runtimes: map[string]bool{}}
	// Those of 20.10 have the same name if they are on one host, and no two of a
	// host have one data folder.
	if r.Info.ID != "" && r.Info.DockerRootDir != "" {
		i.id = r.Info.ID + "@" + r.Info.DockerRootDir
	}
	for name := range r.Info.Runtimes {
		i.runtimes[name] = true
	}
	for _, o := range r.Info.SecurityOptions {
		i.remaps = i.remaps || o == "name=userns" || o == "name=rootless"
	}
	v, err := e.api.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return info{}, wrong("version", err)
	}
	for _, c := range v.Components {
		i.podman = i.podman || strings.HasPrefix(c.Name, "Podman")
	}
	return i, nil
}

func (e *engine) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := e.api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return wrong("ping", err)
	}
	return nil
}

func (e *engine) create(ctx context.Context, name string, c *container.Config, h *container.HostConfig) (string, error) {
	ctx, cancel := lasting(ctx, workTimeout)
	defer cancel()
	r, err := e.api.ContainerCreate(ctx, client.ContainerCreateOptions{Name: name, Config: c, HostConfig: h})
	if err != nil {
		return "", wrong("create", err)
	}
	return r.ID, nil
}

func (e *engine) start(ctx context.Context, id string) error {
	ctx, cancel := lasting(ctx, workTimeout)
	defer cancel()
	if _, err := e.api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return wrong("start", err)
	}
	return nil
}

func (e *engine) inspect(ctx context.Context, id string) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return seen{}, wrong("inspect", err)
	}
	s := r.Container.State
	if s == nil {
		return seen{}, step.Errorf(step.KindInternal, "the container engine: inspect: no state")
	}
	out := seen{running: s.Running, pid: s.Pid, oom: s.OOMKilled, exit: s.ExitCode, err: s.Error}
	if h := r.Container.HostConfig; h != nil {
		out.memory = h.Memory
	}
	return out, nil
}

// events calls sink with what becomes of the containers that have a label, from
// a moment on, until the stream ends.
func (e *engine) events(ctx context.Context, label, value string, since time.Time, sink func(event)) error {
	r := e.api.Events(ctx, client.EventsListOptions{
		Since:   strconv.FormatInt(since.Unix(), 10) + "." + fmt.Sprintf("%09d", since.Nanosecond()),
		Filters: client.Filters{}.Add("label", label+"="+value).Add("type", string(events.ContainerEventType)),
	})
	for {
		select {
		case m := <-r.Messages:
			if box := m.Actor.Attributes[labelBox]; box != "" {
				sink(event{box: box, action: string(m.Action), exit: m.Actor.Attributes["exitCode"], at: time.Unix(0, m.TimeNano)})
			}
		case err := <-r.Err:
			return wrong("events", err)
		}
	}
}

// remove removes a container with its anonymous volumes; one that is not there
// is no error. It reports whether there was one to remove.
func (e *engine) remove(ctx context.Context, name string) (bool, error) {
	ctx, cancel := lasting(ctx, workTimeout)
	defer cancel()
	for failed := 0; ; {
		_, err := e.api.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		switch {
		case err == nil || cerrdefs.IsNotFound(err):
			return err == nil, nil
		case cerrdefs.IsConflict(err): // its removal is under way
		case cerrdefs.IsInternal(err) && failed < removeTries-1:
			failed++
		default:
			return false, wrong("remove", err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return false, wrong("remove", err)
		}
	}
}

// list gives the containers with a label's value, in every state. One that does not
// have its sandbox's name got its labels from an image, and is somebody else's.
func (e *engine) list(ctx context.Context, label, value string) ([]found, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", label+"="+value)})
	if err != nil {
		return nil, wrong("list", err)
	}
	all := make([]found, 0, len(r.Items))
	for _, c := range r.Items {
		if !slices.Contains(c.Names, "/"+name(c.Labels[labelBox])) {
			continue
		}
		all = append(all, found{
			id: c.ID, box: c.Labels[labelBox], state: c.Labels[labelState], created: time.Unix(c.Created, 0).UTC(),
			tags: driver.Tags{Owner: c.Labels[labelOwner], ID: c.Labels[labelTag]}, running: c.State == container.StateRunning,
		})
	}
	return all, nil
}
