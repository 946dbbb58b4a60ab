package brokendriver

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
	"github.com/nofx-run/nofx/sdk/step"
)

// socketName is the world's, in its folder.
const socketName = "world"

// ServeWorld serves an in-memory world to remote drivers, on a socket in dir,
// until ctx ends.
func ServeWorld(ctx context.Context, dir string) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", filepath.Join(dir, socketName))
	if err != nil {
		return err
	}
	w := memdriver.NewWorld()
	defer w.Close()
	server := grpc.NewServer(driverrpc.ServerOptions()...)
	driverpb.RegisterDriverServer(server, driverrpc.NewServer(newMemory(w)))
	defer context.AfterFunc(ctx, server.Stop)()
	return server.Serve(ln)
}

func newMemory(w *memdriver.World) *memdriver.Driver {
	return memdriver.New(w, memdriver.Options{Name: "broken"})
}

// worlds is a driver whose sandboxes are wherever its configuration says.
type worlds struct {
	driver.Driver // over a world of its own, until Configure names another

	mu   sync.Mutex
	conn *grpc.ClientConn
}

// config is the configuration of a remote driver.
type config struct {
	World string `json:"world"` // the folder of ServeWorld
}

const configSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {"world": {"type": "string", "pattern": "^/", "description": "folder of the socket of the process that holds the sandboxes"}}
}`

// remote is a Driver that Configure gives its world.
type remote struct {
	*Driver
	worlds *worlds
}

// NewRemote makes a driver for a process of its own: a broken one over what
// ServeWorld serves.
func NewRemote(defect string) driver.Driver {
	w := &worlds{Driver: newMemory(memdriver.NewWorld())}
	return &remote{Driver: New(w, defect, ""), worlds: w}
}

// Describe implements driver.Driver.
func (r *remote) Describe(ctx context.Context) (driver.Description, error) {
	d, err := r.Driver.Describe(ctx)
	if r.defect != "schema-lets-all-pass" {
		d.ConfigSchema = json.RawMessage(configSchema)
	}
	return d, err
}

// Configure implements driver.Driver.
func (r *remote) Configure(ctx context.Context, raw json.RawMessage) error {
	var c config
	if err := json.Unmarshal(raw, &c); err != nil && r.defect != "accepts-any-configuration" {
		return step.Errorf(step.KindInvalid, "configuration: %w", err)
	}
	r.dir, r.leases.dir = c.World, c.World
	// These lose what they have with their process.
	if c.World != "" && r.defect != "forgets-at-restart" && r.defect != "destroy-needs-memory" {
		if err := r.worlds.connect(c.World); err != nil {
			return err
		}
	}
	return r.Driver.Configure(ctx, json.RawMessage(`{}`))
}

func (w *worlds) connect(dir string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		return nil
	}
	opts := append(driverrpc.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, socketName), opts...)
	if err != nil {
		return step.Errorf(step.KindUnavailable, "the world: %w", err)
	}
	w.conn, w.Driver = conn, driverrpc.NewClient(conn)
	return nil
}
