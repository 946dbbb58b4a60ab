package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// userHz is the unit of the times in /proc, the same on every Linux that Go
// runs on.
const userHz = 100

// CPU is the processor time that a process and its children have used, those
// that have ended with them: of a Postgres, all its backends. It is 0 when the
// process is not there.
func CPU(pid int) time.Duration {
	total := ticks(pid)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, path := range stats {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && parent(path) == pid {
			total += ticks(child)
		}
	}
	return total
}

// fields are those of /proc/PID/stat from the third on; the second, a name,
// can hold anything.
func fields(path string) []string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	text := string(raw)
	return strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
}

func parent(path string) int {
	f := fields(path)
	if len(f) < 2 {
		return 0
	}
	pid, _ := strconv.Atoi(f[1]) // 0 is nobody's parent
	return pid
}

// ticks is what one process has used, with its children that have ended.
func ticks(pid int) time.Duration {
	f := fields(fmt.Sprintf("/proc/%d/stat", pid))
	if len(f) < 15 {
		return 0
	}
	var sum int64
	for _, text := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / userHz
}
