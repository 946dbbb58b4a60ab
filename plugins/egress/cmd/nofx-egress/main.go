// Command nofx-egress is the network gateway of one sandbox. A driver starts
// it, with its configuration and what it needs as descriptors. As
// "nofx-egress device PATH ARG0 ARG..." it makes the device of the network namespace
// that it is in, and executes that program there.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/plugins/egress/internal/gateway"
)

func init() {
	// The first thread cannot end, so nobody may take it into a namespace.
	runtime.LockOSThread()
}

func main() {
	if len(os.Args) > 3 && os.Args[1] == egress.DeviceWord {
		fmt.Fprintln(os.Stderr, "nofx-egress:", inDevice(os.Args[2], os.Args[3:]))
		os.Exit(1)
	}
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(192 << 20) // bytes; its connections and flows are bounded too
	if err := gateway.Main(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "nofx-egress:", err)
		os.Exit(1)
	}
}

// inDevice returns only when it fails.
func inDevice(path string, args []string) error {
	if err := gateway.MakeDevice(); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, args, []string{})) //nolint:gosec // the driver's own words
}
