package driverrpc

import (
	"context"
	"time"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
)

// PluginName is the name under which a plugin serves its driver.
const PluginName = "driver"

// EnvHostPID is the variable in which a host tells a plugin its process id, so
// that a plugin whose host died at once does not wait for it.
const EnvHostPID = "NOFX_DRIVER_HOST_PID"

// Bounds of what travels, in bytes.
const (
	MaxMessage = 4 << 20   // one gRPC message, either way
	MaxChunk   = 256 << 10 // output or tar bytes in one message
)

// How much may be under way before the sender waits, and in which portions it
// is written. Large enough for one stream to fill a unix socket.
const (
	streamWindow = 1 << 20
	connWindow   = 8 << 20
	ioBuffer     = 256 << 10
)

// Handshake tells a plugin and its host that they belong together. It is no
// protection; the mutual TLS is.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		MagicCookieKey:   "NOFX_DRIVER_PLUGIN",
		MagicCookieValue: "c1f7a8ee-6d0b-4c8e-9f2f-2b7a41d6a0b3",
	}
}

// ServerOptions are those that a gRPC server of drivers needs.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.WriteBufferSize(ioBuffer),
		grpc.ReadBufferSize(ioBuffer),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// DialOptions are those that a gRPC client of drivers needs.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithReadBufferSize(ioBuffer),
	}
}

// grpcPlugin is the glue that go-plugin asks for.
type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	driver   driver.Driver
	version  int
	versions []int
}

var _ plugin.GRPCPlugin = (*grpcPlugin)(nil)

func (p *grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	driverpb.RegisterDriverServer(s, &Server{driver: p.driver, version: p.version, versions: p.versions})
	return nil
}

func (p *grpcPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return newClient(conn, p.version), nil
}
