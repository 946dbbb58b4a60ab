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

	"github.com/nofx-run/nofx/internal/pidfd"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// dieTime is how long the processes of a sandbox may take to die.
const dieTime = 10 * time.Second

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
	ctx, cancel := context.WithTimeout(ctx, dieTime)
	defer cancel()
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		pids, err := inGroup(dir)
		if err != nil || len(pids) == 0 {
			tick.Stop()
			return err
		}
		for _, pid := range pids {
			err := pidfd.Kill(pid, func() (bool, error) {
				now, err := inGroup(dir)
				return slices.Contains(now, pid), err
			})
			if err != nil {
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
