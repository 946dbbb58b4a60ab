package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Found is a group that Attempts found, by the names of its folders.
type Found struct {
	*Group
	Tenant  string // as safe as Group made it
	Attempt string
}

// Attempts lists the attempts' groups that exist below the root, in any
// hierarchy.
func (t *Tree) Attempts() ([]Found, error) {
	var all []Found
	for _, root := range t.roots() {
		tenants, err := folders(root)
		if err != nil {
			return nil, err
		}
		for _, name := range tenants {
			prefix := "nofx-"
			if t.units != nil {
				prefix = t.units.prefix + "-"
			}
			tenant, ours := strings.CutPrefix(name, prefix)
			tenant, whole := strings.CutSuffix(tenant, ".slice")
			if !ours || !whole || strings.Contains(tenant, "-") {
				continue
			}
			dir := filepath.Join(root, name)
			if t.units != nil {
				dir = t.units.scope(tenant)
			}
			attempts, err := folders(dir)
			if err != nil {
				return nil, err
			}
			for _, a := range attempts {
				if a == holder {
					continue
				}
				if !slices.ContainsFunc(all, func(f Found) bool { return f.Tenant == tenant && f.Attempt == a }) {
					all = append(all, Found{Group: t.Group(tenant, a), Tenant: tenant, Attempt: a})
				}
			}
		}
	}
	return all, nil
}

// roots are the folders of the root group, one a hierarchy.
func (t *Tree) roots() []string {
	switch {
	case !t.v2:
		return t.v1
	case t.units != nil:
		return []string{t.units.dir}
	}
	return []string{filepath.Join(mountPoint, t.root)}
}

// RemoveAll kills and removes every group below the root, and the root.
func (t *Tree) RemoveAll(ctx context.Context) error {
	found, err := t.Attempts()
	if err != nil {
		return err
	}
	for _, f := range found {
		if err := f.Remove(ctx); err != nil {
			return err
		}
	}
	if t.units != nil {
		return t.units.stop(ctx)
	}
	for _, root := range t.roots() {
		children, err := folders(root)
		if err != nil {
			return err
		}
		for _, child := range children {
			if err := remove(ctx, filepath.Join(root, child)); err != nil {
				return err
			}
		}
		if err := remove(ctx, root); err != nil {
			return err
		}
		// The folders above were there before, or are shared: they go when empty.
		for dir := filepath.Dir(t.root); dir != "."; dir = filepath.Dir(dir) {
			_ = os.Remove(filepath.Join(strings.TrimSuffix(root, t.root), dir))
		}
	}
	return nil
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// folders lists the groups in a group.
func folders(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
