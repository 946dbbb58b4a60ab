package supervised

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A removal that was interrupted is finished by the next process.
func TestInterruptedRemoval(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), goneMark+"x")
	for _, p := range []string{"..gone.1/a/b", "..gone.3/c", "workspace/d/e/f", "..gone.x"} {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeRemains(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}
