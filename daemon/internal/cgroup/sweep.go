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
	roots := t.v1
	if t.v2 {
		roots = []string{filepath.Join(mountPoint, t.root)}
	}
	var all []Found
	for _, root := range roots {
		tenants, err := folders(root)
		if err != nil {
			return nil, err
		}
		for _, slice := range tenants {
			tenant, ours := strings.CutPrefix(slice, "nofx-")
			tenant, whole := strings.CutSuffix(tenant, ".slice")
			if !ours || !whole {
				continue
			}
			attempts, err := folders(filepath.Join(root, slice))
			if err != nil {
				return nil, err
			}
			for _, a := range attempts {
				if !slices.ContainsFunc(all, func(f Found) bool { return f.Tenant == tenant && f.Attempt == a }) {
					all = append(all, Found{Group: t.Group(tenant, a), Tenant: tenant, Attempt: a})
				}
			}
		}
	}
	return all, nil
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
	roots := t.v1
	if t.v2 {
		roots = []string{filepath.Join(mountPoint, t.root)}
	}
	var errs []error
	for _, root := range roots {
		children, err := folders(root)
		if err != nil {
			return err
		}
		for _, child := range children {
			errs = append(errs, gone(os.Remove(filepath.Join(root, child))))
		}
		// The folders above were there before, or are shared: they go when empty.
		errs = append(errs, gone(os.Remove(root)))
		for dir := filepath.Dir(t.root); dir != "."; dir = filepath.Dir(dir) {
			_ = os.Remove(filepath.Join(strings.TrimSuffix(root, t.root), dir))
		}
	}
	return errors.Join(errs...)
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
