package pluginhost

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc/child"
)

// socketPattern begins the names of the folders that go-plugin makes for
// sockets.
const socketPattern = "plugin-dir"

// process is one running plugin, ready for calls.
type process struct {
	driver  *driverrpc.Client
	files   filesID
	sum     [sha256.Size]byte
	started time.Time
	log     *slog.Logger
	schema  json.RawMessage // of its configuration

	// These change with a configuration, desc with its health as well, under the
	// slot's lock once it has the process.
	desc   driver.Description
	config json.RawMessage

	calls   sync.WaitGroup // under way; none begins without the slot's lock
	repeats atomic.Int32   // calls under way that the process before died under, and those that this one has died under

	client *plugin.Client
	child  *child.Process
	traces traces
	grace  time.Duration
	logged chan struct{} // closed when what its process wrote was read to the end
	last   lastLines     // of its stderr
	stdio  stdio
}

// startProcess starts a plugin, checks and configures it.
func startProcess(ctx context.Context, cfg Config, name string, exe *executable, config json.RawMessage) (_ *process, err error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeouts.Start)
	defer cancel()
	p := &process{
		files: exe.files, sum: exe.sum, config: config, started: time.Now(), traces: tracesOf(cfg, name), grace: cfg.Timeouts.Stop,
		log: cfg.Log.With("driver", name), logged: make(chan struct{}),
		child: child.New(exe.path),
	}
	p.stdio = newStdio(p.log)
	if exe.elf { // what was hashed; an interpreter would look for the path in vain
		p.child.File = exe.file
	}
	p.child.Mercy = cfg.Timeouts.Mercy
	p.child.OnStart = func(pid int) error { return p.begin(cfg, name, pid) }
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  driverrpc.Handshake(),
		VersionedPlugins: driverrpc.Answers(),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     cfg.Timeouts.Start,
		GRPCDialOptions:  driverrpc.DialOptions(),
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: cfg.SocketDir},
		Logger:           hostLogger(p.log),
		SyncStdout:       p.stdio.out,
		SyncStderr:       p.stdio.err,
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			p.child.Dir = dir
			p.child.Env = slices.Concat(child.BaseEnv(), cfg.Env, driverrpc.Offer(cmd.Env, cfg.Protocols...), []string{plugin.EnvUnixSocketDir + "=.", "TMPDIR=" + dir})
			return p.child, nil
		},
	})
	defer func() {
		if err != nil {
			p.stop()
			p.last.tell(p.log)
			if _, refused := refusedFor(err); p.child.Ended() != "" && !refused {
				err = fmt.Errorf("%w (%s)", err, p.child.Ended())
			}
		}
	}()
	err = p.dial(ctx)
	if in := driverrpc.Refusal(ctx, p.client.NegotiatedVersion(), p.driver, "this daemon", cfg.Protocols...); in != nil {
		return nil, refuse(reasonProtocol, "%w", in)
	}
	if err != nil {
		return nil, err
	}
	if p.desc, err = describe(ctx, p.driver); err != nil {
		return nil, fmt.Errorf("describe: %w", err)
	}
	if p.desc.Name != name {
		return nil, refuse(reasonIdentity, "the plugin of driver %s says that it is %.40q", name, p.desc.Name)
	}
	p.schema = p.desc.ConfigSchema
	if p.desc, err = p.configure(ctx, config); err != nil {
		return nil, err
	}
	p.log.Info("plugin started", "pid", p.child.PID(), "version", p.desc.Version, "protocol", p.driver.Version(), "sha256", hex.EncodeToString(exe.sum[:]))
	return p, nil
}

// begin follows up on a process that has just been made: it is recorded, put
// in its place, and what it writes is read.
func (p *process) begin(cfg Config, name string, pid int) error {
	go func() {
		defer close(p.logged)
		var both sync.WaitGroup
		both.Go(func() { pumpWords(p.child.Words(), p.log, nil) })
		pumpWords(p.child.Errors(), p.log, &p.last)
		both.Wait()
	}()
	if err := p.traces.write(pid); err != nil {
		return err
	}
	if cfg.Place != nil {
		if err := cfg.Place(name, pid); err != nil {
			return fmt.Errorf("placing the plugin's process: %w", err)
		}
	}
	return nil
}

// dial waits for the handshake and opens the connection.
func (p *process) dial(ctx context.Context) error {
	type dialled struct {
		d   any
		err error
	}
	got := make(chan dialled, 1)
	go func() {
		rpc, err := p.client.Client()
		if err != nil {
			got <- dialled{err: err}
			return
		}
		d, err := rpc.Dispense(driverrpc.PluginName)
		got <- dialled{d: d, err: err}
	}()
	var r dialled
	select {
	case r = <-got:
	case <-ctx.Done():
		p.child.End()
		<-got // ends now that the process has
		return ctx.Err()
	}
	if r.err != nil {
		return r.err
	}
	c, ok := r.d.(*driverrpc.Client)
	if !ok {
		return refuse(reasonIdentity, "the plugin serves no driver")
	}
	p.driver = c
	return nil
}

// dead reports whether the process has ended.
func (p *process) dead() bool {
	select {
	case <-p.child.Done():
		return true
	default:
		return false
	}
}

// drain waits for the calls that are under way; no new one may begin.
func (p *process) drain(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		p.calls.Wait() // ends at the latest when the process does
		close(done)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// stop asks the process to end, kills it if it does not, and removes its
// traces. It can be called for a process that has ended or never began.
func (p *process) stop() {
	var killer sync.WaitGroup
	stopped := make(chan struct{})
	killer.Go(func() {
		timer := time.NewTimer(p.grace)
		defer timer.Stop()
		select {
		case <-stopped:
		case <-timer.C:
			p.log.Warn("the plugin does not end; killing it", "pid", p.child.PID())
			p.child.End()
		}
	})
	p.client.Kill() // asks, and waits for the end
	close(stopped)
	killer.Wait()
	if p.child.PID() != 0 {
		p.child.End()
		<-p.child.Done()
		<-p.logged
	}
	p.stdio.close()
	p.child.Release()
	if p.child.Dir != "" {
		_ = os.RemoveAll(p.child.Dir)
	}
	if p.child.Stuck() {
		p.log.Error("the plugin's process cannot be killed; it is left behind", "pid", p.child.PID())
		return // its record stays for the next host
	}
	if err := p.traces.remove(p.child.PID()); err != nil {
		p.log.Warn("removing the plugin's records", "err", err)
	}
}

// errHung is why a process was killed that went silent.
var errHung = errors.New("it gave no sign of life")
