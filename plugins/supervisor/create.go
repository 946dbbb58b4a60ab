package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Sandbox asks for a sandbox. The folder Dir exists, is the supervisor's own,
// and has no state in it.
type Sandbox struct {
	Dir          string
	Until        driver.Deadline
	UIDBase      uint32
	Workspace    string
	WorkspaceUID uint32
	Cgroup       driver.Cgroup
	Supervisor   driver.Cgroup
}

func (s *Sandbox) encode() []byte {
	e := make(encoder, 0, 1024)
	e.u8(spawnCreate)
	e.str(s.Dir)
	e.u64(uint64(s.Until))
	e.u32(s.UIDBase)
	e.str(s.Workspace)
	e.u32(s.WorkspaceUID)
	e.groups(s.Cgroup, s.Supervisor)
	return e
}

func (e *encoder) groups(groups ...driver.Cgroup) {
	for _, c := range groups {
		e.str(c.V2)
		e.u32(uint32(len(c.V1)))
		for name, dir := range c.V1 {
			e.str(name)
			e.str(dir)
		}
	}
}

// Create starts a sandbox and gives a connection to its supervisor. When it
// fails, no process of the sandbox is left or will be in a moment: a
// supervisor whose set-up fails ends, and its PID 1 with it.
func (l *Launcher) Create(ctx context.Context, s *Sandbox) (*Conn, error) {
	return l.request(ctx, s.encode())
}

// Container is a sandbox whose PID 1 an engine has started: nofx-supervisor
// init, which waits on Channel.
type Container struct {
	Dir        string
	Until      driver.Deadline
	StepID     uint32 // uid and gid of the step, on the host
	RootID     uint32 // uid and gid of an exec as root, on the host
	StepInside uint32 // the same as PID 1 knows them
	RootInside uint32
	PID        int    // on the host
	Channel    int    // descriptor of the connection that PID 1 has made
	GVisor     bool   // its kernel is gVisor's, PID a process that holds it
	Pids       int64  // the cap that PID 1 sets in there, 0 = none or not gVisor
	MaxOutput  uint64 // bytes of one exec, whatever limit it has itself
	Filter     []byte // seccomp program of every step, in the kernel's encoding
	Cgroup     driver.Cgroup
	Supervisor driver.Cgroup
}

func (s *Container) encode() []byte {
	e := make(encoder, 0, 1024+len(s.Filter))
	e.u8(spawnContain)
	e.str(s.Dir)
	e.u64(uint64(s.Until))
	e.u32(s.StepID)
	e.u32(s.RootID)
	e.u32(s.StepInside)
	e.u32(s.RootInside)
	e.u32(uint32(s.PID))
	gvisor := uint8(0)
	if s.GVisor {
		gvisor = 1
	}
	e.u8(gvisor)
	e.u64(uint64(s.Pids))
	e.u64(s.MaxOutput)
	e.bytes(s.Filter)
	e.groups(s.Cgroup, s.Supervisor)
	return e
}

// Join starts the supervisor of a container and gives a connection to it. PID 1
// ends when its channel does: also when this fails, and Channel is closed.
func (l *Launcher) Join(ctx context.Context, s *Container) (*Conn, error) {
	return l.request(ctx, s.encode(), s.Channel)
}

// request sends the spawner what it is to fork a supervisor for, with the
// other end of a connection to it.
func (l *Launcher) request(ctx context.Context, request []byte, fds ...int) (*Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	c, err := newConn(pair[0])
	if err != nil {
		_ = unix.Close(pair[1])
		return nil, err
	}
	err = l.send(request, append([]int{pair[1]}, fds...)...)
	_ = unix.Close(pair[1])
	if err == nil {
		err = c.settled(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// setUpTime bounds a set-up, which takes milliseconds.
const setUpTime = 30 * time.Second

// settled waits for the end of the set-up, also for a caller that has gone
// away: a supervisor that is left in the middle of it could find, under the
// folder's name, the folder of the next one.
func (c *Conn) settled(ctx context.Context) error {
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), setUpTime)
	defer cancel()
	if _, err := c.reply(wait); err != nil {
		return err
	}
	if ctx.Err() == nil {
		return nil
	}
	return errors.Join(ctx.Err(), c.Destroy(wait))
}

func (l *Launcher) send(request []byte, fds ...int) error {
	if len(request) > maxDatagram {
		return step.Errorf(step.KindInvalid, "the request for a sandbox has %d bytes", len(request))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ensure(); err != nil {
		return err
	}
	if err := sendTo(l.sock, request, unix.UnixRights(fds...)); err != nil {
		return step.Errorf(step.KindUnavailable, "the spawner does not answer: %w", err)
	}
	return nil
}
