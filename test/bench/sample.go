package bench

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Sample is how long tries took, and how many failed. A failure counts as an
// infinitely long time.
type Sample struct {
	Times  []time.Duration
	Failed int
}

// Quantile is the time in milliseconds that a fraction q of the tries did not
// exceed.
func (s *Sample) Quantile(q float64) float64 {
	n := len(s.Times) + s.Failed
	if n == 0 {
		return math.Inf(1)
	}
	sorted := slices.Sorted(slices.Values(s.Times))
	i := min(int(q*float64(n)), n-1)
	if i >= len(sorted) {
		return math.Inf(1)
	}
	return float64(sorted[i]) / float64(time.Millisecond)
}

// Machine is the line that heads a report.
func Machine() string {
	var u unix.Utsname
	kernel := "unknown"
	if err := unix.Uname(&u); err == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	cgroup := "v1"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroup = "v2"
	}
	return fmt.Sprintf("machine: %s, %d cores, %s, Linux %s, cgroup %s, %s",
		field("/proc/cpuinfo", "model name"), runtime.NumCPU(), field("/proc/meminfo", "MemTotal"), kernel, cgroup, runtime.Version())
}

// RSS is the resident memory of a process in MiB, -1 when it cannot be read.
func RSS(pid int) float64 {
	v, _, _ := strings.Cut(field(fmt.Sprintf("/proc/%d/status", pid), "VmRSS"), " ")
	kb, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return -1
	}
	return kb / 1024
}

func field(path, key string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for sc := bufio.NewScanner(strings.NewReader(string(raw))); sc.Scan(); {
		if k, v, ok := strings.Cut(sc.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}
