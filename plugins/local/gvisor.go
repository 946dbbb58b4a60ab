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

	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/plugins/supervised"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// stepUID is the step's uid as it sees itself.
const stepUID = 1000

// Where runsc sees the root and its own files: see main.c of the supervisor.
const (
	stageRoot = "/mnt/root"
	stageRun  = "/mnt/run"
)

// runscTime bounds the start of a sandbox's gVisor, which takes a tenth of a
// second on a quiet host.
const runscTime = 30 * time.Second

// gvisor is what sandboxes with a kernel of their own are made with.
type gvisor struct {
	config Config
	bundle *bundle
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
	b, err := newBundle(c.RootFS, c.StateDir)
	if err == nil {
		d.gvisor.Store(&gvisor{c, b, filter})
		err = d.Probe(ctx, driver.IsolationGVisor, d.startGVisor)
	}
	d.UseGVisor(false, err)
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
	if err := errors.Join(os.Lchown(share, int(h.UIDBase), int(h.UIDBase)), g.bundle.write(g.config, b, share), contained.RaisePids(h.Cgroup, b.Spec.Resources.Pids)); err != nil {
		return nil, err
	}
	door, err := contained.Listen(share, int(h.UIDBase))
	if err != nil {
		return nil, err
	}
	defer door.Close()
	pid, err := g.run(ctx, b)
	if err != nil {
		return nil, err
	}
	channel, err := door.Accept(ctx, contained.ByGofer(pid), func() error { return alive(pid) })
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

// run has runsc start the sandbox in its control groups and gives the process
// that holds its kernel.
func (g *gvisor) run(ctx context.Context, b *supervised.Box) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, runscTime)
	defer cancel()
	run := filepath.Join(b.Dir, "runsc")
	if err := os.Mkdir(run, 0o700); err != nil {
		return 0, step.Errorf(step.KindUnavailable, "sandbox: %w", err)
	}
	args := []string{g.config.Supervisor, "into", g.bundle.root, run}
	args = append(append(args, tasks(b.Spec.Host.Cgroup)...), "--", g.config.Runsc,
		"--root="+stageRun, "--log="+filepath.Join(b.Dir, "runsc.log"), "--ignore-cgroups", "--network=none")
	args = append(append(args, contained.RunscFlags[:]...), "run", "--detach", "--bundle="+b.Dir, "--pid-file="+filepath.Join(b.Dir, "runsc.pid"), "sandbox")
	cmd := exec.CommandContext(ctx, args[0])
	cmd.Args, cmd.Env, cmd.Dir = append([]string{"nofx-supervisor"}, args[1:]...), []string{}, b.Dir
	said, err := os.Create(filepath.Join(b.Dir, "runsc.err"))
	if err != nil {
		return 0, step.Errorf(step.KindUnavailable, "sandbox: %w", err)
	}
	defer said.Close()
	cmd.Stderr = said
	if err := cmd.Run(); err != nil {
		return 0, step.Errorf(step.KindUnavailable, "runsc: %w: %s", errors.Join(ctx.Err(), err), words(said.Name(), filepath.Join(b.Dir, "runsc.log")))
	}
	data, err := os.ReadFile(filepath.Join(b.Dir, "runsc.pid"))
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

// words are what runsc and its processes said.
func words(paths ...string) string {
	var all []string
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if text := strings.TrimSpace(string(data)); err == nil && text != "" {
			all = append(all, text[:min(len(text), 500)])
		}
	}
	return strings.Join(all, "; ")
}
