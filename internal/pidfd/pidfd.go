// Package pidfd kills processes by their number and never another that has got
// the number since.
package pidfd

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// Kill kills a process if it is the one that is meant, which is asked with a
// descriptor of it in hand: from then on it cannot become another. One that has
// ended is no error.
func Kill(pid int, meant func() (bool, error)) error {
	fd, err := kill(pid, meant)
	if fd >= 0 {
		_ = unix.Close(fd)
	}
	return err
}

// End kills likewise, and waits for the end: unavailable when it does not come
// within a time.
func End(pid int, within time.Duration, meant func() (bool, error)) error {
	fd, err := kill(pid, meant)
	if fd < 0 || err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for deadline := time.Now().Add(within); ; {
		n, err := unix.Poll(p, max(1, int(time.Until(deadline)/time.Millisecond)))
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return step.Errorf(step.KindInternal, "process %d: %w", pid, err)
		case time.Now().After(deadline):
			return step.Errorf(step.KindUnavailable, "process %d does not die", pid)
		}
	}
}

// kill gives a descriptor of the process that it has killed; -1 = it was not
// there, or not meant.
func kill(pid int, meant func() (bool, error)) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return -1, nil
	}
	if err != nil {
		return -1, step.Errorf(step.KindInternal, "process %d: %w", pid, err)
	}
	ok, err := meant()
	if err == nil && ok {
		if err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err == nil {
			return fd, nil
		}
		if errors.Is(err, unix.ESRCH) {
			return fd, nil // it is a zombie: its end can be waited for
		}
		err = step.Errorf(step.KindInternal, "process %d: %w", pid, err)
	}
	_ = unix.Close(fd)
	return -1, err
}
