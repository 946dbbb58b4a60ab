package container

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// hierarchy is one mounted tree of control groups.
type hierarchy struct {
	mount       string
	controllers []string // of v1, the name of a named one included; none for v2
}

// hierarchies gives those of this host that show it whole.
func hierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []hierarchy
	for lines := bufio.NewScanner(f); lines.Scan(); {
		mount, rest, _ := strings.Cut(lines.Text(), " - ")
		m, r := strings.Fields(mount), strings.Fields(rest)
		if len(m) < 5 || len(r) < 3 || m[3] != "/" {
			continue
		}
		switch r[0] {
		case "cgroup2":
			all = append(all, hierarchy{mount: m[4]})
		case "cgroup":
			all = append(all, hierarchy{mount: m[4], controllers: strings.Split(r[2], ",")})
		}
	}
	return all, nil
}

// groupOf tells where a process is.
func groupOf(pid int) (driver.Cgroup, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return driver.Cgroup{}, err
	}
	trees, err := hierarchies()
	if err != nil {
		return driver.Cgroup{}, err
	}
	g := driver.Cgroup{V1: map[string]string{}}
	for line := range strings.Lines(string(data)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 || strings.Contains(part[2], "..") {
			continue
		}
		for _, t := range trees {
			dir := filepath.Join(t.mount, part[2])
			if part[1] == "" && len(t.controllers) == 0 {
				g.V2 = dir
			}
			for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "freezer"} {
				if slices.Contains(strings.Split(part[1], ","), c) && slices.Contains(t.controllers, c) {
					g.V1[c] = dir
				}
			}
		}
	}
	if len(g.V1) > 0 {
		g.V2 = "" // its v2 tree has no controllers
	} else {
		g.V1 = nil
	}
	if g.V2 == "" && g.V1 == nil {
		return g, fmt.Errorf("process %d is in no control group that is mounted here", pid)
	}
	return g, nil
}

// oneDies has the kernel kill the whole sandbox when it is out of memory, as
// it does for sandboxes of the local driver. Version 1 has no such thing; the
// supervisor does it there.
func oneDies(g driver.Cgroup) error {
	if g.V2 == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(g.V2, "memory.oom.group"), []byte("1"), 0)
}

// parent gives what an engine takes for the parent of a container that is to
// be in the group, or beside it in the nearest slice where systemd keeps the
// groups; "" = wherever the engine likes.
func parent(g driver.Cgroup, systemd bool) (string, error) {
	dir := g.V2
	for _, c := range slices.Sorted(maps.Keys(g.V1)) {
		dir = g.V1[c]
	}
	if dir == "" {
		return "", nil
	}
	if systemd {
		for d := dir; d != "/"; d = filepath.Dir(d) {
			if strings.HasSuffix(d, ".slice") {
				return filepath.Base(d), nil
			}
		}
		return "", step.Errorf(step.KindInvalid, "the engine keeps its groups with systemd, and %.200q is below no slice", dir)
	}
	trees, err := hierarchies()
	if err != nil {
		return "", step.Errorf(step.KindInternal, "control groups: %w", err)
	}
	for _, t := range trees {
		if rel, ok := strings.CutPrefix(dir, t.mount+"/"); ok {
			return "/" + rel, nil
		}
	}
	return "", step.Errorf(step.KindInvalid, "%.200q is below no mounted hierarchy", dir)
}

// prune removes the empty groups that the runtime made above a container, in
// the hierarchies in which the daemon has none of its own and so removes none.
func prune(g driver.Cgroup, parent string) error {
	if !strings.HasPrefix(parent, "/") {
		return nil // systemd's, which removes them
	}
	trees, err := hierarchies()
	if err != nil {
		return step.Errorf(step.KindInternal, "control groups: %w", err)
	}
	own := slices.Collect(maps.Values(g.V1))
	if g.V2 != "" {
		own = append(own, g.V2)
	}
	for _, t := range trees {
		dir := filepath.Join(t.mount, parent)
		if slices.Contains(own, dir) {
			continue
		}
		for ; dir != t.mount; dir = filepath.Dir(dir) {
			err := unix.Rmdir(dir)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				break // in use
			}
		}
	}
	return nil
}
