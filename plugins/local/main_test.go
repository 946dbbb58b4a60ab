package local

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// supervisorPath is the program that TestMain builds.
var supervisorPath string

// probePath is testdata/probe.c, built.
var probePath string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "nofx-local")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out, err := exec.Command("make", "-s", "-C", "../supervisor", "BIN="+dir).CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "building the supervisor: %v\n%s", err, out)
		os.Exit(1)
	}
	supervisorPath = filepath.Join(dir, "nofx-supervisor")
	probePath = filepath.Join(dir, "probe")
	if out, err := exec.Command("gcc", "-static", "-O1", "-w", "-o", probePath, "testdata/probe.c").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the probe: %v\n%s", err, out)
		os.Exit(1)
	}
	// A daemon may have groups that give it the host's files: none may get into
	// a sandbox.
	if err := syscall.Setgroups([]int{0, 4, 42}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}
