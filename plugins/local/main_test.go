package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/internal/posture"
)

// supervisorPath is the program that TestMain builds.
var supervisorPath string

// runscPath is gVisor's runsc, which make builds.
var runscPath string

// probePath is testdata/probe.c, built.
var probePath string

// posturePath is the probe of package posture.
var posturePath string

func TestMain(m *testing.M) {
	signal.Ignore(syscall.SIGHUP) // as under nohup: who starts a driver does not show in its sandboxes
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
	// Where there is no Go, it is there already.
	gateway := exec.Command("cp", "../egress/nofx-egress", dir)
	if _, err := exec.LookPath("go"); err == nil {
		gateway = exec.Command("go", "build", "-o", filepath.Join(dir, "nofx-egress"), "../egress/cmd/nofx-egress")
		gateway.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := gateway.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the gateway: %v\n%s", err, out)
		os.Exit(1)
	}
	if runscPath, err = filepath.Abs("../../bin/runsc"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := exec.LookPath("go"); err != nil {
		runscPath, _ = filepath.Abs("../../runsc") // it is there already too
	} else if out, err := exec.Command("make", "-s", "-C", "../..", "runsc").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building runsc: %v\n%s", err, out)
		os.Exit(1)
	}
	probePath = filepath.Join(dir, "probe")
	if out, err := exec.Command("gcc", "-static", "-O1", "-w", "-o", probePath, "testdata/probe.c").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the probe: %v\n%s", err, out)
		os.Exit(1)
	}
	posturePath = filepath.Join(dir, "posture")
	if err := posture.Build(context.Background(), posturePath); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// A daemon may have groups that give it the host's files: none may get into
	// a sandbox.
	if err := syscall.Setgroups([]int{0, 4, 42}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// So may whoever starts it have told the kernel to ignore signals, the two
	// that a C library keeps to itself included.
	ignored := [4]uint64{1} // SIG_IGN, no flags, no restorer, no mask
	for _, sig := range []uintptr{32, 33} {
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&ignored)), 0, 8, 0, 0); errno != 0 {
			fmt.Fprintln(os.Stderr, errno)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}
