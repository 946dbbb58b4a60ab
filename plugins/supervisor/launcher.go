package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// Launcher starts sandboxes. It keeps one spawner process, and starts another
// when that has died; the sandboxes do not notice.
type Launcher struct {
	path     string
	template []byte

	mu     sync.Mutex
	cmd    *exec.Cmd
	sock   int
	closed bool
}

// Sizes bound what every sandbox may hold, in bytes.
type Sizes struct {
	Tmp       uint64 // /tmp
	Home      uint64 // /home/step
	Shm       uint64 // /dev/shm
	MaxOutput uint64 // of one exec, whatever limit it has itself
}

// NewLauncher starts the program at path and has it build the template. stage
// is a folder that exists; filter is the seccomp program of every step, in the
// kernel's encoding.
func NewLauncher(path, stage string, t *Template, filter []byte, sizes Sizes) (*Launcher, error) {
	l := &Launcher{path: path, template: t.encode(stage, filter, sizes), sock: -1}
	if len(l.template) > maxDatagram {
		return nil, step.Errorf(step.KindInvalid, "the root file system has too many entries: %d bytes of %d", len(l.template), maxDatagram)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.start(); err != nil {
		return nil, err
	}
	return l, nil
}

// NewJoiner starts the program at path for sandboxes that an engine makes: it
// has no template, and Join in place of Create.
func NewJoiner(path string) (*Launcher, error) {
	l := &Launcher{path: path, sock: -1}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.start(); err != nil {
		return nil, err
	}
	return l, nil
}

// Close ends the spawner. Sandboxes go on.
func (l *Launcher) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.stop()
}

// Alive reports whether the spawner runs, and starts it if it does not.
func (l *Launcher) Alive() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ensure()
}

// ensure starts the spawner if it has died. l.mu is held.
func (l *Launcher) ensure() error {
	if l.closed {
		return step.Errorf(step.KindUnavailable, "the driver was configured anew; try again")
	}
	if l.sock >= 0 {
		p := []unix.PollFd{{Fd: int32(l.sock), Events: unix.POLLIN}}
		if n, err := unix.Poll(p, 0); err == nil && n == 0 {
			return nil
		}
		l.stop()
	}
	return l.start()
}

func (l *Launcher) start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("spawner: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "spawner")
	defer theirs.Close()
	l.sock = pair[0]
	l.cmd = &exec.Cmd{Path: l.path, Args: []string{"nofx-supervisor", "spawn"}, Env: []string{}, ExtraFiles: []*os.File{theirs}}
	if err := l.cmd.Start(); err != nil {
		l.cmd = nil
		l.stop()
		return step.Errorf(step.KindUnavailable, "the supervisor %s does not start: %w", l.path, err)
	}
	if l.template == nil {
		return nil
	}
	if err := l.build(); err != nil {
		l.stop()
		return err
	}
	return nil
}

// build sends the template and waits until it is there.
func (l *Launcher) build() error {
	tv := unix.NsecToTimeval(int64(30 * time.Second))
	if err := unix.SetsockoptTimeval(l.sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return fmt.Errorf("spawner: %w", err)
	}
	if err := sendTo(l.sock, l.template, nil); err != nil {
		return fmt.Errorf("spawner: template: %w", err)
	}
	buf := make([]byte, 4096)
	n, err := recvFrom(l.sock, buf)
	if err != nil || n < 5 {
		return step.Errorf(step.KindUnavailable, "the spawner did not build the root file system: %w", errors.Join(err, unix.EPROTO))
	}
	d := decoder{rest: buf[4:n]}
	if d.u8() == replyOK {
		return nil
	}
	d.u32()
	return step.Errorf(step.KindUnavailable, "the root file system cannot be built: %s", d.str())
}

// stop closes the spawner's socket, which ends it, and reaps it.
func (l *Launcher) stop() {
	if l.sock >= 0 {
		_ = unix.Close(l.sock)
		l.sock = -1
	}
	if l.cmd != nil {
		_ = l.cmd.Process.Kill() // it holds nothing that is not elsewhere
		_ = l.cmd.Wait()
		l.cmd = nil
	}
}

func sendTo(sock int, p, oob []byte) error {
	for {
		_, err := unix.SendmsgN(sock, p, oob, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func recvFrom(sock int, p []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(sock, p, 0)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
