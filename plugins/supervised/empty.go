package supervised

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// emptyTime is how long the processes of a sandbox may take to die.
const emptyTime = 10 * time.Second

// empty kills what is left in a sandbox's control group and waits until it has
// gone: gVisor is more processes than the one that holds its kernel, and those
// are no children of it.
func empty(ctx context.Context, g driver.Cgroup) error {
	dir := g.V2
	if dir == "" {
		dir = g.V1["pids"]
	}
	if dir == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, emptyTime)
	defer cancel()
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		pids, err := inGroup(dir)
		if err != nil || len(pids) == 0 {
			tick.Stop()
			return err
		}
		for _, pid := range pids {
			if err := killMember(dir, pid); err != nil {
				tick.Stop()
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return step.Errorf(step.KindUnavailable, "processes of the sandbox do not die: %v", pids)
		}
	}
}

// inGroup are the processes of a group; none when there is no such group.
func inGroup(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, step.Errorf(step.KindInternal, "the sandbox's control group: %w", err)
	}
	var pids []int
	for _, line := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killMember kills a process that is in the group; asked with a descriptor of
// it in hand, so that it cannot become another.
func killMember(dir string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return step.Errorf(step.KindInternal, "process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	now, err := inGroup(dir)
	if err != nil || !slices.Contains(now, pid) {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return step.Errorf(step.KindInternal, "process %d: %w", pid, err)
	}
	return nil
}
