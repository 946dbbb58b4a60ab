package drivertest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
)

// Connect serves d over gRPC on a unix socket and gives a client of it, both
// with the options that a plugin and its host use. t.Cleanup ends both.
func Connect(t testing.TB, d driver.Driver) driver.Driver {
	t.Helper()
	c, stop := Serve(t, d)
	t.Cleanup(stop)
	return c
}

// Serve is Connect with a stop function, which ends the server as the death of
// a driver's process would: every call under way breaks.
func Serve(t testing.TB, d driver.Driver) (driver.Driver, func()) {
	t.Helper()
	socket := filepath.Join(shortTempDir(t), "s")
	ln, err := new(net.ListenConfig).Listen(context.Background(), "unix", socket)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	server := grpc.NewServer(driverrpc.ServerOptions()...)
	driverpb.RegisterDriverServer(server, driverrpc.NewServer(d))
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	opts := append(driverrpc.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient("unix://"+socket, opts...)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	return driverrpc.NewClient(conn), func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		_ = conn.Close()
	}
}

// shortTempDir is a temporary folder whose path fits into a socket address.
func shortTempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
