package driverrpc

import (
	"os"
	"os/signal"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/nofx-run/nofx/sdk/driver"
)

// Serve serves d to the plugin host that started this process, and returns
// when the host has asked it to end. It is all that a driver's main does:
//
//	func main() { driverrpc.Serve(local.New()) }
//
// It exits with a word of explanation when it was not started by a host, and
// at once when the host's process has died: what d needs to survive that must
// not live in this process. Log through NewLogger; anything on stdout and raw
// text on stderr end in the host's log too.
func Serve(d driver.Driver) {
	hs := Handshake()
	if os.Getenv(hs.MagicCookieKey) == hs.MagicCookieValue {
		unix.Umask(0o077)
		// Caught, not ignored: a write to the pipe of a dead host then fails
		// instead of ending the process in the middle of its work, and the
		// children that a driver starts get the default back.
		signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
		go exitWithParent()
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  hs,
		VersionedPlugins: Plugins(d),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, ServerOptions()...)...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr, JSONFormat: true}),
	})
}
