// Package launch starts one driver plugin the way the daemon does, for tools
// that look at a driver from outside: magic cookie, mutual TLS, an environment
// of its own, a socket folder that only we can enter. It supervises nothing:
// that is the daemon's plugin host.
package launch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc/child"
)

// Options say what to start.
type Options struct {
	Path string        // of the executable
	Wait time.Duration // for the handshake; 0 = 10 s
	Stop time.Duration // for the end after it was asked to end; 0 = 10 s
	// Network is the path of a network namespace for the process; "" = ours.
	Network string
}

// Process is one running plugin.
type Process struct {
	client *plugin.Client
	child  *kept
	dir    string
	wait   time.Duration // for the end
	conn   *grpc.ClientConn
	driver *driverrpc.Client
}

// StartError is why a plugin could not be started.
type StartError struct {
	Reason error
	Ended  string   // how its process ended; "" when it had not
	Stderr []string // the last lines that it wrote
}

func (e *StartError) Error() string {
	if e.Ended != "" {
		return fmt.Sprintf("the plugin did not start: %v (%s)", e.Reason, e.Ended)
	}
	return fmt.Sprintf("the plugin did not start: %v", e.Reason)
}

func (e *StartError) Unwrap() error { return e.Reason }

// Start starts a plugin and waits for its handshake. Errors are *StartError.
// The caller ends the process with Stop or Kill.
func Start(ctx context.Context, o Options) (*Process, error) {
	if o.Wait == 0 {
		o.Wait = 10 * time.Second
	}
	if o.Stop == 0 {
		o.Stop = 10 * time.Second
	}
	path, err := executable(o.Path)
	if err != nil {
		return nil, &StartError{Reason: err}
	}
	dir, err := os.MkdirTemp("", "nofx-plugin")
	if err != nil {
		return nil, &StartError{Reason: err}
	}
	p := &Process{dir: dir, wait: o.Stop, child: &kept{Process: child.New(path), network: o.Network, read: make(chan struct{})}}
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  driverrpc.Handshake(),
		VersionedPlugins: driverrpc.Answers(),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     o.Wait,
		GRPCDialOptions:  driverrpc.DialOptions(),
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: dir},
		Logger:           hclog.NewNullLogger(),
		SyncStdout:       io.Discard,
		SyncStderr:       io.Discard,
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, socketDir string) (runner.Runner, error) {
			p.child.Dir = socketDir
			p.child.Env = slices.Concat(child.BaseEnv(), driverrpc.Offer(cmd.Env), []string{plugin.EnvUnixSocketDir + "=.", "TMPDIR=" + socketDir})
			return p.child, nil
		},
	})
	if err := p.dial(ctx); err != nil {
		e := &StartError{Reason: err, Ended: p.child.endedSoon()} // before we end it
		p.Kill()
		e.Stderr = p.child.lastLines()
		return nil, e
	}
	return p, nil
}

// executable finds the file to run: an absolute path, because the plugin has
// another working folder.
func executable(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(abs)
	switch {
	case err != nil:
		return "", err
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return "", fmt.Errorf("%s is not an executable file", path)
	}
	return abs, nil
}

func (p *Process) dial(ctx context.Context) error {
	got := make(chan error, 1)
	go func() {
		rpc, err := p.client.Client()
		if err != nil {
			got <- cmp.Or(driverrpc.Refusal(ctx, p.client.NegotiatedVersion(), nil, "this program"), err)
			return
		}
		g, ok := rpc.(*plugin.GRPCClient)
		if !ok {
			got <- errors.New("the plugin does not speak gRPC")
			return
		}
		p.conn = g.Conn
		d, err := rpc.Dispense(driverrpc.PluginName)
		if p.driver, ok = d.(*driverrpc.Client); err == nil && !ok {
			err = errors.New("the plugin serves no driver")
		}
		got <- cmp.Or(driverrpc.Refusal(ctx, p.client.NegotiatedVersion(), p.driver, "this program"), err)
	}()
	select {
	case err := <-got:
		return err
	case <-ctx.Done():
		p.child.End()
		return errors.Join(ctx.Err(), <-got) // it ends now that the process has
	}
}

// Driver is a client of the plugin.
func (p *Process) Driver() driver.Driver { return p.driver }

// Conn is the connection below Driver.
func (p *Process) Conn() grpc.ClientConnInterface { return p.conn }

// PID is the plugin's process id.
func (p *Process) PID() int { return p.child.PID() }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.child.Done() }

// Ended tells how the process ended; "" while it runs.
func (p *Process) Ended() string { return p.child.Ended() }

// LastLines are the last that the plugin wrote to stderr.
func (p *Process) LastLines() []string { return p.child.lastLines() }

// Kill ends the process at once, as kill -9 does, and everything of ours that
// belongs to it. It can be called again.
func (p *Process) Kill() {
	p.child.End()
	p.end()
}

// Stop asks the process to end with go-plugin's Shutdown, and kills it when it
// does not within the options' Stop. It reports whether it ended by itself.
func (p *Process) Stop() bool {
	ctx, cancel := context.WithTimeout(context.Background(), p.wait)
	defer cancel()
	ended := false
	_ = p.conn.Invoke(ctx, "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{}) // its end may come before its answer
	select {
	case <-p.child.Done():
		ended = true
	case <-ctx.Done():
	}
	p.Kill()
	return ended
}

func (p *Process) end() {
	p.client.Kill()
	p.child.release()
	_ = os.RemoveAll(p.dir)
}
