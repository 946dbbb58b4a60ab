package pglocal

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A cluster stays with the version that made it, whatever newer one comes to
// the host.
func TestBinariesOfTheCluster(t *testing.T) {
	t.Parallel()
	root, dir := t.TempDir(), t.TempDir()
	put := func(elem ...string) {
		t.Helper()
		path := filepath.Join(elem[:len(elem)-1]...)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(elem[len(elem)-1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []string{"14", "15", "17"} {
		put(root, version, "bin", "initdb", "")
	}
	c := &Cluster{dir: dir}
	for _, tc := range []struct {
		has        string // PG_VERSION
		want, fail string
	}{
		{"", "17", ""}, {"15\n", "15", ""}, {"17\n", "17", ""}, {"16\n", "", "apt-get install postgresql-16"},
	} {
		if tc.has != "" {
			put(dir, "data", "PG_VERSION", tc.has)
			put(dir, "initialised", "")
		}
		bin, err := findBinaries(root, c.version())
		if tc.fail != "" {
			if err == nil || !strings.Contains(err.Error(), tc.fail) {
				t.Errorf("%q: %s, %v", tc.has, bin, err)
			}
			continue
		}
		if want := filepath.Join(root, tc.want, "bin"); bin != want || err != nil {
			t.Errorf("%q: %s, %v; want %s", tc.has, bin, err, want)
		}
	}
}
