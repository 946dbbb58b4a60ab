package harness

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Supervisors are the processes that keep a sandbox each of the driver local.
func (s *System) Supervisors() []int {
	boxes := filepath.Join(s.Dir, "worker", "local") + "/"
	return processes(func(proc string) bool {
		cwd, err := os.Readlink(proc + "/cwd")
		return err == nil && strings.HasPrefix(cwd, boxes) && comm(proc) == "nofx-supervisor"
	})
}

// Spawners are the processes that make the supervisors of the driver local: one
// while the driver works.
func (s *System) Spawners() []int {
	plugin := strconv.Itoa(s.Pid("nofx-driver-local"))
	return processes(func(proc string) bool {
		stat, err := os.ReadFile(proc + "/stat")
		if err != nil || comm(proc) != "nofx-supervisor" {
			return false
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		return len(fields) > 1 && fields[1] == plugin
	})
}

func comm(proc string) string {
	name, _ := os.ReadFile(proc + "/comm")
	return strings.TrimSpace(string(name))
}

func processes(is func(proc string) bool) []int {
	var pids []int
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range all {
		if pid, err := strconv.Atoi(filepath.Base(proc)); err == nil && is(proc) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Remains lists what the worker has of attempts and runs, each of which is to be
// gone when they have ended: journals, sandboxes, workspaces, control groups.
func (s *System) Remains() []string {
	left := []string{}
	for _, kind := range []string{"journal", "local", "work"} {
		entries, err := os.ReadDir(filepath.Join(s.Dir, "worker", kind))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != ".stage" {
				left = append(left, kind+" "+e.Name())
			}
		}
	}
	id := s.Installation()
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // a group that vanishes while we look is fine
		}
		if strings.HasPrefix(d.Name(), "att_") && strings.Contains(path, id) {
			left = append(left, "cgroup "+path)
			return fs.SkipDir
		}
		return nil
	})
	return left
}
