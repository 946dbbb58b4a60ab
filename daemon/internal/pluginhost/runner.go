package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
)

// socketPattern begins the names of the folders that go-plugin makes for
// sockets.
const socketPattern = "plugin-dir"

// childRunner starts and watches one plugin process for go-plugin. It is our
// own, not go-plugin's, for three reasons: the process's end is noticed though
// a grandchild keeps its pipes open; its stderr never reaches go-plugin's
// parser; and it executes exactly the file that was hashed.
type childRunner struct {
	exe     *executable
	env     []string
	dir     string // its working folder, where its socket is
	dirFile *os.File
	onStart func(pid int) error // before it is spoken to

	cmd            *exec.Cmd
	stdout, stderr *os.File
	done           chan struct{} // closed when the process has ended

	mu     sync.Mutex
	proc   *os.Process
	killed bool   // kill was called, perhaps before there was a process
	state  string // how it ended
}

var _ runner.Runner = (*childRunner)(nil)

// baseEnv is all that a plugin sees of an environment, but for go-plugin's own
// variables.
func baseEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TZ=UTC",
		driverrpc.EnvHostPID + "=" + strconv.Itoa(os.Getpid()),
	}
}

// Start implements runner.Runner.
func (r *childRunner) Start(context.Context) error {
	// A socket's address has room for about a hundred characters, a data
	// folder's path may be longer. So the plugin makes its socket in its
	// working folder, and the host reaches it through an open folder.
	var err error
	if r.dirFile, err = os.Open(r.dir); err != nil {
		return err
	}
	stdout, err := pipeTo(&r.stdout)
	if err != nil {
		return err
	}
	defer stdout.Close()
	stderr, err := pipeTo(&r.stderr)
	if err != nil {
		return err
	}
	defer stderr.Close()
	r.cmd = &exec.Cmd{
		Path: r.exe.path, Args: []string{r.exe.path}, Env: r.env, Dir: r.dir,
		Stdout: stdout, Stderr: stderr,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if r.exe.elf { // an interpreter would look for the path in vain
		r.cmd.Path = fmt.Sprintf("/proc/self/fd/%d", r.exe.file.Fd())
	}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	r.mu.Lock()
	r.proc = r.cmd.Process
	early := r.killed
	r.mu.Unlock()
	go r.reap()
	if early {
		r.kill()
	}
	if err := r.onStart(r.pid()); err != nil {
		r.kill()
		<-r.done
		return err
	}
	return nil
}

// pipeTo makes a pipe, puts its reading end in to and gives the other.
func pipeTo(to **os.File) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	*to = r
	return w, nil
}

// reap waits for the process's end. The pipes are then given a moment to hand
// over what is in them, and closed, whoever else still holds them.
func (r *childRunner) reap() {
	err := r.cmd.Wait()
	r.mu.Lock()
	r.state = "exit status 0"
	if err != nil {
		r.state = err.Error()
	}
	r.mu.Unlock()
	soon := time.Now().Add(300 * time.Millisecond)
	_ = r.stdout.SetReadDeadline(soon)
	_ = r.stderr.SetReadDeadline(soon)
	close(r.done)
}

// kill ends the process, if it still runs; one that has yet to start ends at
// once.
func (r *childRunner) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.killed = true
	if r.proc != nil {
		_ = r.proc.Kill() // by its descriptor: never another's pid
	}
}

// pid is the process's id, 0 when there was none.
func (r *childRunner) pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc == nil {
		return 0
	}
	return r.proc.Pid
}

// release closes what is left when the process has ended.
func (r *childRunner) release() {
	for _, f := range []*os.File{r.dirFile, r.stdout, r.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// ended tells how the process ended.
func (r *childRunner) ended() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Wait implements runner.Runner.
func (r *childRunner) Wait(ctx context.Context) error {
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill implements runner.Runner.
func (r *childRunner) Kill(context.Context) error {
	r.kill()
	return nil
}

// Stdout implements runner.Runner.
func (r *childRunner) Stdout() io.ReadCloser { return r.stdout }

// Stderr implements runner.Runner: go-plugin sees none of it.
func (r *childRunner) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (r *childRunner) Name() string { return filepath.Base(r.exe.path) }

// ID implements runner.Runner.
func (r *childRunner) ID() string {
	if pid := r.pid(); pid != 0 {
		return strconv.Itoa(pid)
	}
	return ""
}

// Diagnose implements runner.Runner.
func (r *childRunner) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner: it turns the plugin's address into
// one that is good here, and refuses all but a socket in the plugin's folder.
func (r *childRunner) PluginToHost(network, addr string) (string, string, error) {
	if network != "unix" || filepath.Base(addr) == "." || strings.HasPrefix(filepath.Base(addr), "..") {
		return "", "", errors.New("the plugin does not listen in its socket folder")
	}
	if d := filepath.Dir(addr); d != "." && filepath.Clean(d) != filepath.Clean(r.dir) {
		return "", "", errors.New("the plugin does not listen in its socket folder")
	}
	return network, fmt.Sprintf("/proc/self/fd/%d/%s", r.dirFile.Fd(), filepath.Base(addr)), nil
}

// HostToPlugin implements runner.Runner. Drivers do not call back.
func (r *childRunner) HostToPlugin(string, string) (string, string, error) {
	return "", "", errors.New("drivers have no way back to the host")
}
