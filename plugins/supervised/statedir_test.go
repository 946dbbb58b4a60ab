package supervised

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestOwnFolder(t *testing.T) {
	t.Parallel()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(base, "a", "b")
	for range 2 {
		if got, err := OwnFolder(fresh); err != nil || got != fresh {
			t.Fatal(got, err)
		}
	}
	if st, err := os.Stat(fresh); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	empty, shared := filepath.Join(base, "empty"), filepath.Join(base, "shared")
	for _, dir := range []string{empty, shared} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OwnFolder(empty); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(empty); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(shared, "somebody's"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OwnFolder(shared); !step.Is(err, step.KindInvalid) {
		t.Errorf("a folder that others use: %v", err)
	}
	if st, err := os.Stat(shared); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("it was closed to them: %v, %v", st.Mode(), err)
	}
}
