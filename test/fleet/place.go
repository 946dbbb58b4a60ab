package fleet

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Binaries is bin/ of the module that the test is in, which `make build` fills.
func Binaries(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes sandboxes: run it as root")
	}
	bin := filepath.Join(module(t), "bin")
	for _, name := range []string{"nofxd", "nofx-api", "nofx-driver-local", "nofx-supervisor", "nofx-egress"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Fatalf("%v: run make build first", err)
		}
	}
	return bin
}

// Holdable is a folder of binaries that can be held at failpoints, which it has
// made.
func Holdable(t testing.TB) string {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "make", "--no-print-directory", "-C", module(t), "failpoints").CombinedOutput(); err != nil {
		t.Fatalf("make failpoints: %v: %s", err, out)
	}
	return filepath.Join(Binaries(t), "failpoints")
}

// module is the folder above the test that has the module.
func module(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the test")
	return ""
}

// Dir is a folder for a fleet that Postgres's user can enter. It goes with the
// test, unless that fails: then its logs are of use.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nofx-fleet-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the logs are in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
