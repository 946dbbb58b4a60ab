package contained

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nofx-run/nofx/sdk/driver"
)

// Hierarchy is one mounted tree of control groups.
type Hierarchy struct {
	Mount       string
	Controllers []string // of v1, the name of a named one included; none for v2
}

// Hierarchies gives those of this host that show it whole.
func Hierarchies() ([]Hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []Hierarchy
	for lines := bufio.NewScanner(f); lines.Scan(); {
		mount, rest, _ := strings.Cut(lines.Text(), " - ")
		m, r := strings.Fields(mount), strings.Fields(rest)
		if len(m) < 5 || len(r) < 3 || m[3] != "/" {
			continue
		}
		switch r[0] {
		case "cgroup2":
			all = append(all, Hierarchy{Mount: m[4]})
		case "cgroup":
			all = append(all, Hierarchy{Mount: m[4], Controllers: strings.Split(r[2], ",")})
		}
	}
	return all, nil
}

// GroupOf tells where a process is.
func GroupOf(pid int) (driver.Cgroup, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return driver.Cgroup{}, err
	}
	trees, err := Hierarchies()
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
			dir := filepath.Join(t.Mount, part[2])
			if part[1] == "" && len(t.Controllers) == 0 {
				g.V2 = dir
			}
			for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "freezer"} {
				if slices.Contains(strings.Split(part[1], ","), c) && slices.Contains(t.Controllers, c) {
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

// OneDies has the kernel kill the whole sandbox when it is out of memory, as
// it does for sandboxes of the local driver. Version 1 has no such thing; the
// supervisor does it there.
func OneDies(g driver.Cgroup) error {
	if g.V2 == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(g.V2, "memory.oom.group"), []byte("1"), 0)
}
