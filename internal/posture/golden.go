package posture

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

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
		want[name] = p.Here()
	}
	return cmp.Diff(want, got), nil
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
