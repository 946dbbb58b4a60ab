package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Signalling says how to end a process that an earlier supervisor left: each
// signal in turn, with the time to wait after it.
type Signalling []struct {
	Signal syscall.Signal
	Wait   time.Duration
}

// EndStale ends the process called name that an earlier supervisor started for
// runDir, if it still lives, and removes its files: the one that it recorded,
// and one that it died too soon to record. It reports whether there was one.
func EndStale(ctx context.Context, runDir, name string, how Signalling) (bool, error) {
	found, err := endRecorded(ctx, runDir, name, how)
	if err != nil {
		return found, err
	}
	more, err := endMarked(ctx, runDir, name, how)
	return found || more, err
}

// endRecorded acts through a pidfd on a process whose start time and boot match
// the record, so it can never hit another one that got the same number.
func endRecorded(ctx context.Context, runDir, name string, how Signalling) (bool, error) {
	want, err := readIdentity(runDir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, removePid(runDir, name)
	}
	if err != nil {
		return false, errors.Join(err, removePid(runDir, name))
	}
	fd, err := unix.PidfdOpen(want.Pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return false, removePid(runDir, name)
	}
	if err != nil {
		return false, fmt.Errorf("stale %s (pid %d): %w", name, want.Pid, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	// The pidfd pins the process: if the identity matches now, it is ours.
	if is, err := identify(want.Pid); err != nil || is != want {
		return false, removePid(runDir, name)
	}
	if err := end(ctx, fd, want.Pid, how); err != nil {
		return true, fmt.Errorf("stale %s (pid %d): %w", name, want.Pid, err)
	}
	return true, removePid(runDir, name)
}

// end ends the process behind fd and waits until it is gone.
func end(ctx context.Context, fd, pid int, how Signalling) error {
	for _, h := range how {
		if err := unix.PidfdSendSignal(fd, h.Signal, nil, 0); err != nil {
			if errors.Is(err, unix.ESRCH) {
				return reaped(ctx, pid)
			}
			return err
		}
		ended, err := waitPidfd(ctx, fd, h.Wait)
		if err != nil {
			return err
		}
		if ended {
			return reaped(ctx, pid)
		}
	}
	return errors.New("it does not die")
}

// waitPidfd waits until the process behind fd has ended, at most d.
func waitPidfd(ctx context.Context, fd int, d time.Duration) (bool, error) {
	deadline := time.Now().Add(d)
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false, nil
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(min(left, 100*time.Millisecond).Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		if n > 0 {
			return true, nil
		}
	}
}

// reapTime is how long init may take to reap an orphan.
const reapTime = 30 * time.Second

// reaped waits until a process that has ended is gone from the process table.
// Its successor may look for it there: Postgres does, by the pid in its lock
// file, and a zombie passes for alive.
func reaped(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, reapTime)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("process %d has ended, but nobody reaps it: %w", pid, context.Cause(ctx))
		}
	}
}
