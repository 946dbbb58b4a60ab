package container

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

// What a sandbox's folder has for its container: the folder is mounted there
// read-only.
const (
	shareName  = "in"
	sharePath  = "/.nofx"
	socketName = "init.sock"
	initName   = "nofx-supervisor"
)

// waiter is the socket at which a container's PID 1 announces itself.
type waiter struct {
	fd   int
	path string
}

// listen makes it in the folder share, for root alone.
func listen(share string) (*waiter, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, step.Errorf(step.KindUnavailable, "socket: %w", err)
	}
	w := &waiter{fd, filepath.Join(share, socketName)}
	// The folder's path may be longer than a socket's address can be.
	dir, err := os.Open(share)
	if err == nil {
		defer dir.Close()
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + socketName})
	}
	if err == nil {
		err = os.Chmod(w.path, 0o600)
	}
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		w.close()
		return nil, step.Errorf(step.KindInternal, "socket: %w", err)
	}
	return w, nil
}

func (w *waiter) close() {
	_ = unix.Close(w.fd)
	_ = os.Remove(w.path)
}

// accept waits for the first connection, which must come from process pid, and
// closes the door behind it. ended is asked now and then whether waiting has
// become vain.
func (w *waiter) accept(ctx context.Context, pid int, ended func() error) (int, error) {
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
	if err == nil && int(peer.Pid) != pid {
		err = step.Errorf(step.KindInternal, "process %d called in place of the container's first, %d: the runtime must be one like runc, whose processes are the host's", peer.Pid, pid)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// shareFolder makes the folder that the container sees, with the program that
// it executes: a copy that nothing on the host executes, made once a version.
func shareFolder(stateDir, dir, supervisor string) (string, error) {
	share := filepath.Join(dir, shareName)
	if err := os.Mkdir(share, 0o700); err != nil {
		return "", step.Errorf(step.KindUnavailable, "sandbox: %w", err)
	}
	if err := os.Link(copyPath(stateDir), filepath.Join(share, initName)); err == nil {
		return share, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", step.Errorf(step.KindUnavailable, "sandbox: %w", err)
	}
	if err := copySupervisor(stateDir, supervisor); err != nil {
		return "", err
	}
	if err := os.Link(copyPath(stateDir), filepath.Join(share, initName)); err != nil {
		return "", step.Errorf(step.KindUnavailable, "sandbox: %w", err)
	}
	return share, nil
}

func copyPath(stateDir string) string { return filepath.Join(stateDir, ".nofx-supervisor") }

// copySupervisor puts a copy of the supervisor into the state folder, in place
// of an older one; containers that run keep theirs.
func copySupervisor(stateDir, supervisor string) error {
	data, err := os.ReadFile(supervisor)
	if err == nil { // two processes of the driver may do so at once
		err = renameio.WriteFile(copyPath(stateDir), data, 0o500, renameio.WithTempDir(stateDir), renameio.IgnoreUmask())
	}
	if err != nil {
		return step.Errorf(step.KindUnavailable, "configuration: supervisor: %w", err)
	}
	return nil
}
