package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/pidfd"
)

// Stray is a process in a plugin's group that neither the daemon nor a plugin
// of its has for an ancestor: what a plugin that is gone left behind.
type Stray struct {
	Plugin string
	PID    int
	Name   string
	dir    string
	start  string
}

// maxAncestors bounds a walk up from a process.
const maxAncestors = 100

// Strays lists what earlier plugins left running. A process that moves or ends
// meanwhile is left out.
func (t *Tree) Strays() ([]Stray, error) {
	var all []Stray
	for _, dir := range t.pluginParents() {
		names, err := folders(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			plugin, ok := strings.CutPrefix(name, pluginPrefix)
			if !ok {
				continue
			}
			group := filepath.Join(dir, name)
			pids, err := members(group)
			if err != nil {
				return nil, err
			}
			for _, pid := range pids {
				if slices.ContainsFunc(all, func(s Stray) bool { return s.PID == pid }) {
					continue // seen in another hierarchy
				}
				if s, stray := strayed(pid); stray {
					s.Plugin, s.dir = plugin, group
					all = append(all, s)
				}
			}
		}
	}
	return all, nil
}

// Kill ends it, unless it has ended or moved since it was listed.
func (s Stray) Kill() error {
	return pidfd.Kill(s.PID, func() (bool, error) {
		pids, err := members(s.dir)
		now, stray := strayed(s.PID)
		return stray && now.start == s.start && slices.Contains(pids, s.PID), err
	})
}

// pluginParents are the folders that plugins' groups are in, one a hierarchy.
func (t *Tree) pluginParents() []string {
	switch {
	case !t.v2:
		return t.v1
	case t.units != nil:
		return []string{t.units.host()}
	}
	return t.roots()
}

func members(group string) ([]int, error) {
	raw, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, line := range strings.Fields(string(raw)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 0 { // 0: of another pid namespace
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// strayed walks up from a process to the first that no process started, and
// reports whether this process was not on the way.
func strayed(pid int) (Stray, bool) {
	s := Stray{PID: pid}
	for at, n := pid, 0; n < maxAncestors; n++ {
		if at == os.Getpid() {
			return s, false
		}
		parent, name, start, ok := parentOf(at)
		if !ok {
			return s, false
		}
		if at == pid {
			s.Name, s.start = name, start
		}
		if parent <= 1 {
			return s, true
		}
		at = parent
	}
	return s, false
}

// parentOf reads /proc/PID/stat: pid (name) state ppid … the 22nd is when it
// started.
func parentOf(pid int) (parent int, name, start string, ok bool) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, "", "", false
	}
	text := string(raw)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return 0, "", "", false
	}
	fields := strings.Fields(text[end+1:])
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, "", "", false
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, text[open+1 : end], fields[19], err == nil
}
