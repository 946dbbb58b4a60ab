// Command nofx-egress is the network gateway of one sandbox. A driver starts
// it, with its configuration and what it needs as descriptors.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/nofx-run/nofx/plugins/egress/internal/gateway"
)

func init() {
	// The first thread cannot end, so nobody may take it into a namespace.
	runtime.LockOSThread()
}

func main() {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(192 << 20) // bytes; its connections and flows are bounded too
	if err := gateway.Main(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "nofx-egress:", err)
		os.Exit(1)
	}
}
