// Command nofx-driver-minimal is a NOFX driver to start from. A sandbox is a
// folder that its programs see as /workspace; bubblewrap keeps the process tree
// of each together and off the network, a control group bounds it. Nothing else
// is isolated: run nothing that you do not trust.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/cgroup"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/simple"
	"github.com/nofx-run/nofx/sdk/step"
	"golang.org/x/sys/unix"
)

func main() {
	groups := cgroup.Open("nofx-minimal")
	driverrpc.Serve(simple.New(driver.Description{
		Name:    "minimal",
		Version: "0.1.0",
		Capabilities: append(groups.Capabilities(), driver.CapNetNone, driver.CapWallTime,
			driver.CapOutput, driver.CapLease, driver.CapMultiExec),
		ConfigSchema: json.RawMessage(`{"type": "object", "additionalProperties": false}`),
		Warnings:     []string{"no isolation: steps run on the host, with the rights of this driver"},
	}, backend{groups}, nil))
}

// backend makes sandboxes: a folder and a control group for each.
type backend struct{ groups *cgroup.Root }

func (b backend) Create(_ context.Context, s driver.Spec) (simple.Box, error) {
	if s.Image != "" || s.Isolation != "" {
		return nil, step.Errorf(step.KindUnsupported, "this driver has no images and no isolation")
	}
	dir, err := os.MkdirTemp("", "box") // below TMPDIR, which goes with this process
	if err != nil {
		return nil, step.Errorf(step.KindUnavailable, "the sandbox's folder: %w", err)
	}
	group, err := b.groups.Make(s.Resources)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return box{dir, group}, nil
}

type box struct {
	dir   string
	group *cgroup.Group
}

func (b box) Remove() error { return errors.Join(os.RemoveAll(b.dir), b.group.Remove()) }

// Start runs the host's own programs in a process namespace, in which a tree
// can be killed whole, without a network, with the folder at /workspace.
func (b box) Start(s driver.ExecSpec, stdout, stderr io.Writer) (simple.Process, error) {
	if s.User != "" {
		return nil, step.Errorf(step.KindUnsupported, "this driver has one user")
	}
	args := []string{"--unshare-pid", "--unshare-net", "--die-with-parent", "--new-session", "--info-fd", "3"}
	entries, err := os.ReadDir("/")
	if err != nil {
		return nil, step.Errorf(step.KindUnavailable, "the host's files: %w", err)
	}
	for _, e := range entries {
		if n := "/" + e.Name(); n != "/workspace" && n != "/proc" && n != "/sys" {
			args = append(args, "--dev-bind", n, n)
		}
	}
	args = append(args, "--proc", "/proc", "--bind", b.dir, "/workspace", "--chdir", s.Cwd, "--", "env", "-i")
	args = append(append(args, s.Env...), s.Argv...)
	info, infoEnd, err := os.Pipe()
	if err != nil {
		return nil, step.Errorf(step.KindUnavailable, "a pipe: %w", err)
	}
	defer info.Close()
	defer infoEnd.Close()
	p := &process{entry: b.group.Enter()}
	argv := p.entry.Argv(append([]string{"bwrap"}, args...)...)
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // ends with this process from its first moment
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = bytes.NewReader(s.Stdin), stdout, stderr
	p.cmd.ExtraFiles = []*os.File{infoEnd}
	p.cmd.WaitDelay = 5 * time.Second // for what holds its pipes after its end
	if err := p.cmd.Start(); err != nil {
		return nil, step.Errorf(step.KindUnavailable, "bwrap: %w", err)
	}
	infoEnd.Close()
	var first struct {
		Child int `json:"child-pid"`
	}
	if err := json.NewDecoder(info).Decode(&first); err != nil {
		_, _ = p.cmd.Process.Kill(), p.cmd.Wait()
		return nil, step.Errorf(step.KindUnavailable, "bwrap does not start: %w", err)
	}
	p.init, err = os.FindProcess(first.Child)
	return p, err
}

// process is bubblewrap, whose child is the first process of a namespace, whose
// child is the exec's main process.
type process struct {
	cmd   *exec.Cmd
	init  *os.Process
	entry cgroup.Entry
}

// Wait reads bubblewrap's status, which is a shell's: 128 and more is a signal.
func (p *process) Wait() driver.Exit {
	_ = p.cmd.Wait() // how it ended is in ProcessState
	p.Kill()         // and with it whatever is left
	_ = p.init.Release()
	exit := driver.Exit{Cause: step.CauseExit, Code: p.cmd.ProcessState.ExitCode(), Attested: step.AttestedKernel}
	if sig := unix.SignalName(syscall.Signal(exit.Code - 128)); sig != "" {
		exit.Cause, exit.Code, exit.Signal = step.CauseSignal, -1, sig
	}
	p.entry.End(&exit) // what a cap did to it
	return exit
}

// Signal reaches the main process's group; the first process ignores it.
func (p *process) Signal(sig syscall.Signal) error {
	if err := p.init.Signal(syscall.Signal(0)); err != nil {
		return err // it has ended: its number may be another's
	}
	return syscall.Kill(-p.init.Pid, sig)
}

// Kill ends the namespace's first process, and the kernel all others in it.
func (p *process) Kill() { _ = p.init.Kill() } // no error but that it has ended
