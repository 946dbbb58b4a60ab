// Command nofx-driver-container is the container driver as a plugin of nofxd.
package main

import (
	"log/slog"
	"os"

	"github.com/nofx-run/nofx/plugins/container"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
)

func main() {
	driverrpc.Serve(container.New(slog.New(slog.NewTextHandler(os.Stderr, nil))))
}
