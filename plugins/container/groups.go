package container

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

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
	trees, err := contained.Hierarchies()
	if err != nil {
		return "", step.Errorf(step.KindInternal, "control groups: %w", err)
	}
	for _, t := range trees {
		if rel, ok := strings.CutPrefix(dir, t.Mount+"/"); ok {
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
	trees, err := contained.Hierarchies()
	if err != nil {
		return step.Errorf(step.KindInternal, "control groups: %w", err)
	}
	own := slices.Collect(maps.Values(g.V1))
	if g.V2 != "" {
		own = append(own, g.V2)
	}
	for _, t := range trees {
		dir := filepath.Join(t.Mount, parent)
		if slices.Contains(own, dir) {
			continue
		}
		for ; dir != t.Mount; dir = filepath.Dir(dir) {
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
