package posture

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
)

// Set is the postures of one sandbox's processes, by what they are.
type Set map[string]Posture

// Compare gives the difference between a committed set and another, "" when
// there is none.
func Compare(path string, got Set) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%w (-update writes it)", err)
	}
	want := Set{}
	if err := json.Unmarshal(data, &want); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	for name, p := range want {
		if q, ok := got[name]; ok {
			want[name], got[name] = sameKernel(p, q)
		}
	}
	return cmp.Diff(want, got), nil
}

// sameKernel takes out what only depends on which files a kernel has in /proc
// and /sys: what want hides and this one does not have, and what this one has
// besides and got hides as others.
func sameKernel(want, got Posture) (Posture, Posture) {
	hidden := func(m string) (target, how string, ok bool) {
		target, how, _ = strings.Cut(m, " ")
		return target, how, strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/sys/")
	}
	hows := map[string]bool{}
	for _, m := range want.Mounts {
		if _, how, ok := hidden(m); ok {
			hows[how] = true
		}
	}
	w, g := slices.Clone(want.Mounts), slices.Clone(got.Mounts)
	want.Mounts = slices.DeleteFunc(w, func(m string) bool {
		target, _, ok := hidden(m)
		_, err := os.Lstat(target)
		return ok && os.IsNotExist(err)
	})
	committed := slices.Clone(want.Mounts)
	got.Mounts = slices.DeleteFunc(g, func(m string) bool {
		target, how, ok := hidden(m)
		return ok && hows[how] && !slices.ContainsFunc(committed, func(c string) bool { return strings.HasPrefix(c, target+" ") })
	})
	return want, got
}

// Update writes a set to be committed.
func Update(path string, got Set) error {
	data, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
