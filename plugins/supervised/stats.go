package supervised

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Stats implements driver.Driver. What no control group tells is negative.
func (b *Boxes) Stats(_ context.Context, h driver.Handle) (driver.Stats, error) {
	dir, err := b.Folder(h)
	if err != nil {
		return driver.Stats{}, err
	}
	s, err := readSpec(dir)
	if os.IsNotExist(err) {
		return driver.Stats{}, notFound(h)
	}
	if err != nil {
		return driver.Stats{}, step.Errorf(step.KindInternal, "%w", err)
	}
	rx, tx := int64(-1), int64(-1)
	if u, err := egress.ReadUse(dir); err == nil {
		rx, tx = u.Received, u.Sent
	}
	st := statsOf(s.Group)
	st.NetRxBytes, st.NetTxBytes = rx, tx
	if b.GVisor(s.Spec) { // the host's processes are gVisor's, not the step's
		st.Pids, st.PidsPeak = -1, -1
	}
	return st, nil
}

func statsOf(g driver.Cgroup) driver.Stats {
	if g.V2 != "" {
		return driver.Stats{
			CPUUsec: keyed(g.V2, "cpu.stat", "usage_usec"), MemoryBytes: number(g.V2, "memory.current"), MemoryPeak: number(g.V2, "memory.peak"),
			Pids: number(g.V2, "pids.current"), PidsPeak: number(g.V2, "pids.peak"),
			IOReadBytes: ioSum(g.V2, "rbytes="), IOWriteBytes: ioSum(g.V2, "wbytes="),
		}
	}
	cpu := number(g.V1["cpuacct"], "cpuacct.usage")
	if cpu > 0 {
		cpu /= 1000
	}
	return driver.Stats{
		CPUUsec: cpu, MemoryBytes: number(g.V1["memory"], "memory.usage_in_bytes"), MemoryPeak: number(g.V1["memory"], "memory.max_usage_in_bytes"),
		Pids: number(g.V1["pids"], "pids.current"), PidsPeak: number(g.V1["pids"], "pids.peak"),
		IOReadBytes: -1, IOWriteBytes: -1,
	}
}

// number reads a control file with one number; -1 when it cannot.
func number(dir, file string) int64 {
	if dir == "" {
		return -1
	}
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return -1
	}
	return parse(strings.TrimSpace(string(data)))
}

func parse(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// keyed reads the line "key number" of a control file.
func keyed(dir, file, key string) int64 {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, key+" "); ok {
			return parse(strings.TrimSpace(v))
		}
	}
	return -1
}

// ioSum adds up one field of io.stat over all devices.
func ioSum(dir, field string) int64 {
	data, err := os.ReadFile(filepath.Join(dir, "io.stat"))
	if err != nil {
		return -1
	}
	sum := int64(0)
	for _, f := range strings.Fields(string(data)) {
		if v, ok := strings.CutPrefix(f, field); ok {
			sum += max(parse(v), 0)
		}
	}
	return sum
}
