package supervisor

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// ErrGone says that the supervisor has closed the connection: it has ended, or
// it never was there.
var ErrGone = errors.New("the supervisor is gone")

// Conn is a connection to one sandbox's supervisor, for one call at a time.
type Conn struct {
	c net.Conn
	r *bufio.Reader
}

func newConn(fd int) (*Conn, error) {
	f := os.NewFile(uintptr(fd), "supervisor")
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	return &Conn{c: c, r: bufio.NewReader(c)}, nil
}

// Dial connects to the supervisor of the sandbox whose folder is dir; ErrGone
// when none listens.
func Dial(ctx context.Context, dir string) (*Conn, error) {
	// The folder's path may be longer than a socket's address can be.
	d, err := os.Open(dir)
	if err != nil {
		return nil, errors.Join(ErrGone, err)
	}
	defer d.Close()
	address := filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), "ctl.sock")
	c, err := new(net.Dialer).DialContext(ctx, "unix", address)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
			return nil, ErrGone
		}
		return nil, step.Errorf(step.KindUnavailable, "the supervisor does not answer: %w", err)
	}
	return &Conn{c: c, r: bufio.NewReader(c)}, nil
}

// Close closes the connection. It ends nothing but what watches on it.
func (c *Conn) Close() { _ = c.c.Close() }

// foreign is an error that a call met with and that is not the connection's:
// what a reader or a receiver of the caller's failed with.
type foreign struct{ error }

// under runs f with the connection bound to ctx.
func (c *Conn) under(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.c.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() && ctx.Err() != nil {
		return ctx.Err() // the connection is of no more use
	}
	var ne net.Error
	var theirs foreign
	switch {
	case err == nil:
		return nil
	case errors.As(err, &theirs):
		return theirs.error
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		return ErrGone
	case errors.As(err, &ne):
		return step.Errorf(step.KindUnavailable, "the supervisor does not answer: %w", err)
	}
	return err
}

func (c *Conn) send(kind uint8, payload []byte) error {
	frame := make([]byte, 5, 5+len(payload))
	binary.LittleEndian.PutUint32(frame, uint32(len(payload)+1))
	frame[4] = kind
	_, err := c.c.Write(append(frame, payload...))
	return err
}

// recv reads one frame.
func (c *Conn) recv(limit uint32) (uint8, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(head[:4])
	if n == 0 || n > limit {
		return 0, nil, step.Errorf(step.KindInternal, "the supervisor sent a frame of %d bytes", n)
	}
	body := make([]byte, n-1)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return 0, nil, err
	}
	return head[4], body, nil
}

var kinds = map[uint32]step.Kind{
	1: step.KindInvalid, 2: step.KindNotFound, 3: step.KindConflict, 4: step.KindUnavailable, 5: step.KindInternal,
}

func errorOf(body []byte) error {
	d := decoder{rest: body}
	kind, ok := kinds[d.u32()]
	text := d.str()
	if !ok || d.bad {
		return step.Errorf(step.KindInternal, "the supervisor's error cannot be read")
	}
	return step.Errorf(kind, "%s", text)
}

// answer reads frames until one answers a command; notes are passed over.
func (c *Conn) answer() (*decoder, error) {
	for {
		kind, body, err := c.recv(maxReply)
		switch {
		case err != nil:
			return nil, err
		case kind == replyOK:
			return &decoder{rest: body}, nil
		case kind == replyError:
			return nil, errorOf(body)
		case kind != replyNote:
			return nil, step.Errorf(step.KindInternal, "the supervisor sent a frame of kind %d", kind)
		}
	}
}

func (c *Conn) reply(ctx context.Context) (d *decoder, err error) {
	err = c.under(ctx, func() error {
		d, err = c.answer()
		return err
	})
	return d, err
}

func (c *Conn) call(ctx context.Context, kind uint8, payload []byte) (d *decoder, err error) {
	err = c.under(ctx, func() error {
		if err := c.send(kind, payload); err != nil {
			return err
		}
		d, err = c.answer()
		return err
	})
	return d, err
}

// Exec starts an exec and watches it. existed says that it was there already;
// then it is not watched yet.
func (c *Conn) Exec(ctx context.Context, spec *driver.ExecSpec) (existed bool, err error) {
	e := make(encoder, 0, 512+len(spec.Stdin))
	e.str(spec.ID)
	e.u64(uint64(spec.Timeout))
	e.u64(uint64(spec.Grace))
	e.u64(uint64(spec.OutputLimit))
	mode := uint8(1)
	if spec.OnOutput == step.OutputKill {
		mode = 2
	}
	e.u8(mode)
	e.bytes(spec.Stdin)
	user := uint8(0)
	if spec.User == "root" {
		user = 1
	}
	e.u8(user)
	cwd := spec.Cwd
	if cwd == "" {
		cwd = "/workspace"
	}
	e.str(cwd)
	for _, list := range [][]string{spec.Argv, spec.Env} {
		e.u32(uint32(len(list)))
		for _, s := range list {
			e.str(s)
		}
	}
	if len(e) >= maxFrame {
		return false, step.Errorf(step.KindTooLarge, "exec %s: the request has %d bytes", spec.ID, len(e))
	}
	d, err := c.call(ctx, cmdExec, e)
	if err != nil {
		return false, err
	}
	return d.u8() == 1, nil
}

// Watch has the supervisor send notes about an exec. running is false when it
// has ended: no note comes then.
func (c *Conn) Watch(ctx context.Context, id string) (running bool, err error) {
	var e encoder
	e.str(id)
	d, err := c.call(ctx, cmdWatch, e)
	if err != nil {
		return false, err
	}
	return d.u8() == 1, nil
}

// Note tells how far a watched exec's output file is filled, and whether the
// exec has ended; that note is the last.
type Note struct {
	Ended bool
	Size  int64
}

// Note waits for the next one.
func (c *Conn) Note(ctx context.Context) (n Note, err error) {
	err = c.under(ctx, func() error {
		kind, body, err := c.recv(maxReply)
		if err != nil {
			return err
		}
		d := decoder{rest: body}
		n = Note{Ended: d.u8() == 1, Size: int64(d.u64())}
		if kind != replyNote || d.bad {
			return step.Errorf(step.KindInternal, "the supervisor sent a frame of kind %d for a note", kind)
		}
		return nil
	})
	return n, err
}

// Signal sends a signal to the exec's main process and its group; SIGKILL goes
// to the whole tree.
func (c *Conn) Signal(ctx context.Context, id string, sig unix.Signal) error {
	var e encoder
	e.str(id)
	e.u32(uint32(sig))
	_, err := c.call(ctx, cmdSignal, e)
	return err
}

// Stop ends every exec and returns when none is left.
func (c *Conn) Stop(ctx context.Context, grace time.Duration, cause step.Cause) error {
	var e encoder
	e.u64(uint64(max(grace, 0)))
	e.u8(uint8(WhyCancelled))
	if cause == step.CauseTimeout {
		e[len(e)-1] = uint8(WhyTimeout)
	}
	_, err := c.call(ctx, cmdStop, e)
	return err
}

// Extend moves the sandbox's deadline, never back.
func (c *Conn) Extend(ctx context.Context, until driver.Deadline) error {
	var e encoder
	e.u64(uint64(until))
	_, err := c.call(ctx, cmdExtend, e)
	return err
}

// Status is what a supervisor knows at the moment.
type Status struct {
	Alive   bool             // the sandbox can still run something
	Until   driver.Deadline  // 0 = never
	Running map[string]int64 // bytes of output that can be read, by exec
}

// Status asks for it. What is not in Running has ended, and its record is
// there.
func (c *Conn) Status(ctx context.Context) (Status, error) {
	d, err := c.call(ctx, cmdStatus, nil)
	if err != nil {
		return Status{}, err
	}
	s := Status{Alive: d.u8() == 1, Until: driver.Deadline(d.u64()), Running: map[string]int64{}}
	for n := d.u32(); n > 0 && !d.bad; n-- {
		id := d.str()
		s.Running[id] = int64(d.u64())
	}
	if d.bad {
		return Status{}, step.Errorf(step.KindInternal, "the supervisor's status cannot be read")
	}
	return s, nil
}

// Destroy kills everything in the sandbox and then the supervisor; it returns
// when no process of the sandbox is left.
func (c *Conn) Destroy(ctx context.Context) error {
	_, err := c.call(ctx, cmdDestroy, nil)
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}
