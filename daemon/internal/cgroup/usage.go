package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// Counters are what the kernel counted for a group. Zero = nothing, or not
// known on this kernel.
type Counters struct {
	OOMKills   int64 // processes that the memory controller killed
	PidsDenied int64 // forks that the pids controller refused
	CPUUsec    int64
	MemoryPeak int64 // bytes
	PidsPeak   int64
	IORead     int64 // bytes, of all block devices
	IOWritten  int64
}

// Counters reads them. They are zero for a group that is not there.
func (g *Group) Counters() (Counters, error) {
	c := g.Cgroup()
	var n Counters
	var errs []error
	get := func(dir, file, key string, scale int64) int64 {
		v, err := number(filepath.Join(dir, file), key)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		return v / scale
	}
	if g.tree.v2 {
		n.OOMKills = get(c.V2, "memory.events", "oom_kill", 1)
		n.PidsDenied = get(c.V2, "pids.events", "max", 1)
		n.CPUUsec = get(c.V2, "cpu.stat", "usage_usec", 1)
		n.MemoryPeak = get(c.V2, "memory.peak", "", 1)
		n.PidsPeak = get(c.V2, "pids.peak", "", 1)
		n.IORead, n.IOWritten = sum(filepath.Join(c.V2, "io.stat"), "rbytes="), sum(filepath.Join(c.V2, "io.stat"), "wbytes=")
	} else {
		n.OOMKills = get(c.V1["memory"], "memory.oom_control", "oom_kill", 1)
		n.PidsDenied = get(c.V1["pids"], "pids.events", "max", 1)
		n.CPUUsec = get(c.V1["cpuacct"], "cpuacct.usage", "", 1000)
		n.MemoryPeak = get(c.V1["memory"], "memory.max_usage_in_bytes", "", 1)
		n.PidsPeak = get(c.V1["pids"], "pids.peak", "", 1)
		if dir := c.V1[blkio]; dir != "" { // with the groups that a container engine makes below
			file := filepath.Join(dir, "blkio.throttle.io_service_bytes_recursive")
			n.IORead, n.IOWritten = sum(file, "Read "), sum(file, "Write ")
		}
	}
	return n, errors.Join(errs...)
}

// mostProcesses bounds what Processes lists.
const mostProcesses = 10_000

// Processes lists those that are in the group and below it, as far as they can be
// seen. One that has ended meanwhile may be among them.
func (g *Group) Processes() []int {
	dirs := g.folders()
	if len(dirs) == 0 {
		return nil
	}
	var all []int
	for dirs = dirs[:1]; len(dirs) > 0 && len(all) < mostProcesses; dirs = dirs[1:] {
		pids, err := members(dirs[0])
		if err != nil {
			continue // it has just gone
		}
		all = append(all, pids...)
		below, err := folders(dirs[0])
		if err != nil {
			continue
		}
		for _, name := range below {
			dirs = append(dirs, filepath.Join(dirs[0], name))
		}
	}
	return all
}

// number reads a control file's number: the whole of it, or the one behind
// key on a line of its own.
func number(file, key string) (int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	if key == "" {
		return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	}
	for sc := bufio.NewScanner(bytes.NewReader(raw)); sc.Scan(); {
		if k, v, ok := strings.Cut(sc.Text(), " "); ok && k == key {
			return strconv.ParseInt(v, 10, 64)
		}
	}
	return 0, nil
}

// sum adds up the numbers that stand behind key, one a device; 0 when the kernel
// has no such file.
func sum(file, key string) (all int64) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for _, part := range strings.Split(string(raw), key)[1:] {
		end := strings.IndexFunc(part+" ", unicode.IsSpace)
		if n, err := strconv.ParseInt(part[:end], 10, 64); err == nil {
			all += n
		}
	}
	return all
}
