package harness

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Installation is the name of the system's cgroup on this host.
func (s *System) Installation() string {
	body, err := os.ReadFile(filepath.Join(s.Dir, "installation.json"))
	var inst struct{ ID string }
	if err != nil || json.Unmarshal(body, &inst) != nil || inst.ID == "" {
		return ""
	}
	return "nofx-" + inst.ID
}

// checkNothingLeft fails the test for each process, mount, cgroup and link of
// the system that is still on the host.
func (s *System) checkNothingLeft() {
	s.t.Helper()
	for _, left := range s.Leftovers() {
		s.t.Errorf("left on the host: %s", left)
	}
}

// Leftovers lists what the host has of the system, while it runs or after.
func (s *System) Leftovers() []string {
	id := s.Installation()
	if id == "" {
		return nil
	}
	var left []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		groups, _ := os.ReadFile(filepath.Join(p, "cgroup"))
		args, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if bytes.Contains(groups, []byte(id)) || bytes.Contains(args, []byte(s.Dir)) {
			left = append(left, "process "+filepath.Base(p)+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, s.Dir) || strings.Contains(line, id) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), id) {
			left = append(left, "cgroup "+path)
			return fs.SkipDir
		}
		return nil // a group that vanishes while we look is fine
	})
	if _, err := os.Lstat("/run/" + id); err == nil {
		left = append(left, "link /run/"+id)
	}
	return left
}

// dumpLogs puts the end of each log into the test's own.
func (s *System) dumpLogs() {
	s.t.Logf("nofx up:\n%s", s.log)
	logs, _ := filepath.Glob(filepath.Join(s.Dir, "log", "*.log"))
	for _, path := range logs {
		body, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if most := 8 << 10; len(body) > most {
			body = body[len(body)-most:]
		}
		s.t.Logf("%s:\n%s", filepath.Base(path), body)
	}
}
