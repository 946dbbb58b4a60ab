package local

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/plugins/supervised"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// stepUID is the step's uid as it sees itself.
const stepUID = 1000

// Where runsc sees the root and its own files: see into.c of the supervisor.
const (
	stageRoot = "/mnt/root"
	stageRun  = "/mnt/run"
)

// runscTime bounds the start of a sandbox's gVisor, which takes a tenth of a
// second on a quiet host.
const runscTime = 30 * time.Second

// tryTime bounds each of the two tries whether gVisor works here. Both have to fit
// into the 30 s that a plugin has to start.
const tryTime = 10 * time.Second

// gvisor is what sandboxes with a kernel of their own are made with.
type gvisor struct {
	config Config
	root   string // the template's file
	filter []byte
}

// useGVisor finds out whether runsc makes sandboxes here: a level that a step
// can demand is one that was seen to work.
func (d *Driver) useGVisor(ctx context.Context, c Config, filter []byte) {
	d.gvisor.Store(nil)
	if c.Runsc == "" {
		d.ForgetGVisor()
		return
	}
	root, err := writeRoot(c)
	if err != nil {
		d.UseGVisor(false, err)
		return
	}
	d.gvisor.Store(&gvisor{c, root, filter})
	_, whyNet := d.Network()
	if whyNet == nil {
		whyNet = d.try(ctx, step.NetworkOpen)
	}
	if whyNet != nil {
		err = d.try(ctx, step.NetworkNone)
	}
	d.UseGVisor(false, err)
	d.UseGVisorNetwork(whyNet)
}

// try makes a sandbox with gVisor and that network, and removes it again.
func (d *Driver) try(ctx context.Context, n step.Network) error {
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	return d.Probe(ctx, driver.IsolationGVisor, n, d.startGVisor)
}

// writeRoot writes down what the root of sandboxes with gVisor is made of: the
// same as of others, and a place for what PID 1 is executed from.
func writeRoot(c Config) (string, error) {
	t, err := rootTemplate(c.RootFS, c.StateDir)
	if err != nil {
		return "", err
	}
	t.Dir(contained.SharePath[1:], 0o755)
	path := filepath.Join(c.StateDir, ".gvisor-root") // no sandbox's id begins with a dot
	if err := renameio.WriteFile(path, t.Encoded(), 0o600, renameio.WithTempDir(c.StateDir), renameio.IgnoreUmask()); err != nil {
		return "", step.Errorf(step.KindUnavailable, "state_dir: %w", err)
	}
	return path, nil
}

// startGVisor starts a kernel of the sandbox's own, with PID 1 on it, and gives
// PID 1 a supervisor.
func (d *Driver) startGVisor(ctx context.Context, b *supervised.Box) (*supervisor.Conn, error) {
	g := d.gvisor.Load()
	if g == nil {
		return nil, step.Errorf(step.KindUnavailable, "the driver was configured anew; try again")
	}
	h := b.Spec.Host
	share, err := contained.Share(g.config.StateDir, b.Dir, g.config.Supervisor)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Lchown(share, int(h.UIDBase), int(h.UIDBase)), writeBundle(g.config, b), contained.RaisePids(h.Cgroup, b.Spec.Resources.Pids)); err != nil {
		return nil, err
	}
	door, err := contained.Listen(share, int(h.UIDBase))
	if err != nil {
		return nil, err
	}
	defer door.Close()
	ctx, cancel := context.WithTimeout(ctx, runscTime)
	defer cancel()
	r, err := g.run(ctx, d, b, share)
	if err != nil {
		return nil, err
	}
	defer r.wait()
	pid := 0
	channel, err := door.Accept(ctx, func(peer int) (err error) {
		if pid, err = r.pid(); err != nil { // it is written before anything runs in there
			return err
		}
		return contained.ByGofer(pid)(peer)
	}, func() error { return contained.TooSmall(b.Spec.Resources, true, r.failed()) })
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.NewFile(uintptr(channel), "init").Close() }()
	return b.Launcher.Join(ctx, &supervisor.Container{
		Dir: b.Dir, Until: b.Spec.Until,
		StepID: b.WorkspaceUID, RootID: h.UIDBase, StepInside: stepUID, RootInside: 0,
		PID: pid, Channel: channel, GVisor: true, Pids: b.Spec.Resources.Pids,
		MaxOutput: uint64(g.config.MaxOutputMB) << 20, Filter: g.filter, Cgroup: h.Cgroup, Supervisor: h.Supervisor,
	})
}

// runsc is one that starts a sandbox, and ends when it has.
type runsc struct {
	dir  string
	said *os.File // what it and gVisor say, in memory that counts as the sandbox's
	done chan struct{}
	err  error // once done
}

// run starts it in the sandbox's control groups.
func (g *gvisor) run(ctx context.Context, d *Driver, b *supervised.Box, share string) (*runsc, error) {
	r := &runsc{dir: b.Dir, done: make(chan struct{})}
	own := filepath.Join(b.Dir, "runsc")
	if err := os.Mkdir(own, 0o700); err != nil {
		return nil, step.Errorf(step.KindUnavailable, "sandbox: %w", err)
	}
	fd, err := unix.MemfdCreate("runsc", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, step.Errorf(step.KindUnavailable, "sandbox: %w", err)
	}
	r.said = os.NewFile(uintptr(fd), "runsc")
	args := append([]string{"nofx-supervisor", "into", g.root, share, own}, tasks(b.Spec.Host.Cgroup)...)
	network := "none"
	if supervised.Networked(b.Spec) {
		network = "sandbox" // what it finds in the namespace that it is started in
	}
	args = append(args, "--", g.config.Runsc, "--root="+stageRun, "--ignore-cgroups", "--network="+network)
	args = append(append(args, contained.RunscFlags[:]...), "run", "--detach", "--bundle="+b.Dir, "--pid-file="+r.pidFile(), "sandbox")
	cmd := exec.CommandContext(ctx, g.config.Supervisor)
	cmd.Args = args
	if supervised.Networked(b.Spec) {
		host, err := d.Network()
		if err != nil {
			return nil, err
		}
		cmd = host.Device(ctx, g.config.Supervisor, args)
	}
	cmd.Env, cmd.Dir, cmd.Stderr = []string{}, b.Dir, r.said
	if err := cmd.Start(); err != nil {
		_ = r.said.Close()
		return nil, step.Errorf(step.KindUnavailable, "runsc: %w", err)
	}
	go func() {
		r.err = cmd.Wait()
		close(r.done)
	}()
	return r, nil
}

func (r *runsc) pidFile() string { return filepath.Join(r.dir, "runsc.pid") }

// wait waits until it has ended.
func (r *runsc) wait() {
	<-r.done
	_ = r.said.Close()
}

// words are the first of what was said.
func (r *runsc) words() string {
	text := make([]byte, 500)
	n, _ := r.said.ReadAt(text, 0) // the end of it is no fault
	return strings.TrimSpace(string(text[:n]))
}

// failed reports whether it has ended without a sandbox.
func (r *runsc) failed() error {
	select {
	case <-r.done:
		if r.err != nil {
			return step.Errorf(step.KindUnavailable, "runsc: %w: %s", r.err, r.words())
		}
		pid, err := r.pid()
		if err != nil {
			return err
		}
		return alive(pid)
	default:
		return nil
	}
}

// pid is the process that holds the sandbox's kernel.
func (r *runsc) pid() (int, error) {
	data, err := os.ReadFile(r.pidFile())
	if err != nil {
		return 0, step.Errorf(step.KindInternal, "runsc: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, step.Errorf(step.KindInternal, "runsc: %.40q is no process", data)
	}
	return pid, nil
}

// tasks are the files by which a process enters a sandbox's groups.
func tasks(g driver.Cgroup) []string {
	if g.V2 != "" {
		return []string{filepath.Join(g.V2, "cgroup.procs")}
	}
	var all []string
	for _, dir := range g.V1 {
		all = append(all, filepath.Join(dir, "tasks"))
	}
	return all
}

func alive(pid int) error {
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
		return step.Errorf(step.KindUnavailable, "gVisor ended as the sandbox began")
	}
	return nil
}
