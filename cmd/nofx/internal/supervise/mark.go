package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mark is a variable in the environment of each child: between its start and
// its record a supervisor can die.
func mark(runDir, name string) string {
	if abs, err := filepath.Abs(runDir); err == nil {
		runDir = abs
	}
	return "NOFX_UP_PROCESS=" + filepath.Join(runDir, name)
}

// marked reports whether a process was started with the mark.
func marked(pid int, m string) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false // it has ended, or is not ours
	}
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		if string(entry) == m {
			return true
		}
	}
	return false
}

// endMarked ends the processes with the mark whose parent has it not: their
// children, which inherit it, are their own business.
func endMarked(ctx context.Context, runDir, name string, how Signalling) (bool, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false, err
	}
	m, found := mark(runDir, name), false
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !marked(pid, m) || marked(parent(pid), m) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
			continue
		}
		if err != nil {
			return found, fmt.Errorf("stale %s (pid %d): %w", name, pid, err)
		}
		if marked(pid, m) { // the pidfd pins the process: it still is that one
			found = true
			err = end(ctx, fd, pid, how)
		}
		_ = unix.Close(fd) // nothing was written
		if err != nil {
			return found, fmt.Errorf("stale %s (pid %d): %w", name, pid, err)
		}
	}
	return found, nil
}

// parent is the pid of a process's parent; 0 = not known.
func parent(pid int) int {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(fields[1]) // not a number: not known
	return n
}
