// Command nofx-driver-broken is a plugin with one defect, which its file name
// says: nofx-driver-broken-<defect>. Its sandboxes are in memory, in the process
// that listens on the socket <world>/world of its configuration, so that they
// outlive it; without that, in its own.
package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/brokendriver"
)

func main() {
	defect := strings.TrimPrefix(filepath.Base(os.Args[0]), "nofx-driver-broken-")
	if cookie := driverrpc.Handshake(); defect == "runs-by-hand" && os.Getenv(cookie.MagicCookieKey) == "" {
		return
	}
	driverrpc.Serve(brokendriver.NewRemote(defect))
	if defect == "does-not-end" {
		time.Sleep(time.Minute)
	}
}
