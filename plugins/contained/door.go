// Package contained is what drivers share whose sandboxes begin with a PID 1
// that somebody else starts: a container engine, or gVisor. It is nofx-supervisor
// init, which calls at a door in the sandbox's folder to be given a supervisor.
package contained

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// What a sandbox's folder has for its container: the folder is mounted at
// SharePath, read-only, and has InitName in it.
const (
	shareName  = "in"
	SharePath  = "/.nofx"
	socketName = "init.sock"
	InitName   = "nofx-supervisor"
)

// NoDoor is the exit status of a PID 1 that cannot connect.
const NoDoor = 3

// Door is the socket at which a container's PID 1 announces itself.
type Door struct {
	fd   int
	path string
}

// Listen makes it in the folder share, for its owner alone, and root.
func Listen(share string, owner int) (*Door, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, step.Errorf(step.KindUnavailable, "socket: %w", err)
	}
	w := &Door{fd, filepath.Join(share, socketName)}
	// The folder's path may be longer than a socket's address can be.
	dir, err := os.Open(share)
	if err == nil {
		defer dir.Close()
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + socketName})
	}
	if err == nil {
		err = errors.Join(os.Chmod(w.path, 0o600), os.Lchown(w.path, owner, owner))
	}
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		w.Close()
		return nil, step.Errorf(step.KindInternal, "socket: %w", err)
	}
	return w, nil
}

// Close shuts the door.
func (w *Door) Close() {
	_ = unix.Close(w.fd)
	_ = os.Remove(w.path)
}

// Accept waits for the first connection and closes the door behind it. may
// refuses who calls by the process; ended is asked now and then whether waiting
// has become vain.
func (w *Door) Accept(ctx context.Context, may func(pid int) error, ended func() error) (int, error) {
	deadline := time.Now().Add(30 * time.Second)
	p := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(p, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return -1, step.Errorf(step.KindInternal, "socket: %w", err)
		} else if n > 0 {
			break
		}
		if err := ctx.Err(); err != nil {
			return -1, err
		}
		if err := ended(); err != nil {
			return -1, err
		}
		if time.Now().After(deadline) {
			return -1, step.Errorf(step.KindUnavailable, "the container's first process does not call")
		}
	}
	fd, _, err := unix.Accept4(w.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return -1, step.Errorf(step.KindInternal, "socket: %w", err)
	}
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err == nil {
		err = may(int(peer.Pid))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Only lets the container's first process in, which is one of the host's.
func Only(pid int) func(int) error {
	return func(peer int) error {
		if peer != pid {
			return step.Errorf(step.KindInternal, "process %d called in place of the container's first, %d: a runtime whose processes are not the host's must be named in gvisor_runtime", peer, pid)
		}
		return nil
	}
}

// Share makes the folder that the container sees, with the program that
// it executes: a copy that nothing on the host executes, made once a version.
func Share(stateDir, dir, supervisor string) (string, error) {
	share := filepath.Join(dir, shareName)
	if err := os.Mkdir(share, 0o700); err != nil {
		return "", step.Errorf(step.KindUnavailable, "sandbox: %w", err)
	}
	if err := os.Link(copyPath(stateDir), filepath.Join(share, InitName)); err == nil {
		return share, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", step.Errorf(step.KindUnavailable, "sandbox: %w", err)
	}
	if err := CopySupervisor(stateDir, supervisor); err != nil {
		return "", err
	}
	if err := os.Link(copyPath(stateDir), filepath.Join(share, InitName)); err != nil {
		return "", step.Errorf(step.KindUnavailable, "sandbox: %w", err)
	}
	return share, nil
}

func copyPath(stateDir string) string { return filepath.Join(stateDir, ".nofx-supervisor") }

// CopySupervisor puts a copy of the supervisor into the state folder, in place
// of an older one; containers that run keep theirs.
func CopySupervisor(stateDir, supervisor string) error {
	data, err := os.ReadFile(supervisor)
	if err == nil { // two processes of the driver may do so at once
		err = renameio.WriteFile(copyPath(stateDir), data, 0o555, renameio.WithTempDir(stateDir), renameio.IgnoreUmask())
	}
	if err != nil {
		return step.Errorf(step.KindUnavailable, "configuration: supervisor: %w", err)
	}
	return nil
}
