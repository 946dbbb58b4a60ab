// Command nofx-driver-local is the local driver as a plugin of nofxd.
package main

import (
	"github.com/nofx-run/nofx/plugins/local"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
)

func main() { driverrpc.Serve(local.New()) }
