// Package child runs a plugin's process for go-plugin. It is our own runner, not
// go-plugin's, for three reasons: the process's end is noticed though a
// grandchild keeps its pipes open; its stderr never reaches go-plugin's parser;
// and it can execute exactly the file that was looked at.
package child

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
)

const (
	maxLine = 64 << 10 // of the handshake, in bytes
	mercy   = 10 * time.Second
)

// Process is one plugin's process. Make it with New and set its fields before
// it is started; it cannot be started twice.
type Process struct {
	Path    string              // its name, and what is executed
	File    *os.File            // executed in place of Path when it is set
	Env     []string            // complete
	Dir     string              // its working folder, where its socket is
	OnStart func(pid int) error // called before it does anything; an error ends it
	Mercy   time.Duration       // from its kill until it is given up as one that cannot be killed; 0 = 10 s

	dirFile        *os.File
	cmd            *exec.Cmd
	stdout, stderr *os.File
	done           chan struct{} // closed when the process has ended, or is given up
	doomed         chan struct{} // closed when it was killed, and Mercy has passed

	out  *bufio.Reader // of stdout
	once sync.Once     // its first line was read
	line []byte

	mu     sync.Mutex
	proc   *os.Process
	doom   sync.Once
	killed bool   // End was called, perhaps before there was a process
	stuck  bool   // it was killed and does not end
	state  string // how it ended
}

var _ runner.Runner = (*Process)(nil)

// New makes the process of the executable at path, not started yet.
func New(path string) *Process {
	return &Process{Path: path, done: make(chan struct{}), doomed: make(chan struct{})}
}

// BaseEnv is all that a plugin sees of an environment, but for go-plugin's own
// variables.
func BaseEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TZ=UTC",
		driverrpc.EnvHostPID + "=" + strconv.Itoa(os.Getpid()),
	}
}

// Start implements runner.Runner.
func (p *Process) Start(context.Context) error {
	// A socket's address has room for about a hundred characters, a data
	// folder's path may be longer. So the plugin makes its socket in its
	// working folder, and the host reaches it through an open folder.
	var err error
	if p.dirFile, err = os.Open(p.Dir); err != nil {
		return err
	}
	stdout, err := pipeTo(&p.stdout)
	if err != nil {
		return err
	}
	defer stdout.Close()
	p.out = bufio.NewReaderSize(p.stdout, maxLine)
	stderr, err := pipeTo(&p.stderr)
	if err != nil {
		return err
	}
	defer stderr.Close()
	if p.OnStart != nil { // the thread that starts a traced process has to let it go
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	held := p.OnStart != nil
	err = p.exec(stdout, stderr, held)
	if held && errors.Is(err, os.ErrPermission) { // a host where nobody may trace
		held = false
		err = p.exec(stdout, stderr, held)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.proc = p.cmd.Process
	early := p.killed
	p.mu.Unlock()
	if early {
		p.End()
	}
	if p.OnStart != nil {
		if err = p.OnStart(p.PID()); err != nil {
			p.End()
		}
	}
	if held {
		err = errors.Join(err, p.letGo())
	}
	go p.reap() // not earlier: whoever waits for a traced process takes its stop for its end
	if err != nil {
		p.End()
		<-p.done
	}
	return err
}

// exec makes the process; one that is held has not run its first instruction,
// so that OnStart comes before anything that it does or starts.
func (p *Process) exec(stdout, stderr *os.File, held bool) error {
	p.cmd = &exec.Cmd{
		Path: p.Path, Args: []string{p.Path}, Env: p.Env, Dir: p.Dir,
		Stdout: stdout, Stderr: stderr,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Ptrace: held},
	}
	if p.File != nil {
		p.cmd.Path = fmt.Sprintf("/proc/self/fd/%d", p.File.Fd())
	}
	return p.cmd.Start()
}

// letGo has a held process run. It may have been killed meanwhile.
func (p *Process) letGo() error {
	for {
		// Looked at, not taken: its end is for reap.
		err := unix.Waitid(unix.P_PID, p.PID(), nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil {
			err = unix.PtraceDetach(p.PID())
		}
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ECHILD) {
			return nil
		}
		return err
	}
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
// One that cannot be killed, for the kernel does not let go of it, is reaped when
// it ends after all, and nobody waits for that.
func (p *Process) reap() {
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	state, stuck := "exit status 0", false
	select {
	case err := <-ended:
		if err != nil {
			state = err.Error()
		}
	case <-p.doomed:
		state, stuck = "it was killed and does not end", true
	}
	p.mu.Lock()
	p.state, p.stuck = state, stuck
	p.mu.Unlock()
	soon := time.Now().Add(300 * time.Millisecond)
	_ = p.stdout.SetReadDeadline(soon)
	_ = p.stderr.SetReadDeadline(soon)
	close(p.done)
}

// End kills the process, if it still runs; one that has yet to start ends at
// once.
func (p *Process) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	if p.proc == nil {
		return
	}
	_ = p.proc.Kill() // by its descriptor: never another's pid
	p.doom.Do(func() { time.AfterFunc(cmp.Or(p.Mercy, mercy), func() { close(p.doomed) }) })
}

// Stuck reports whether the process was killed and given up, as it does not end.
func (p *Process) Stuck() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stuck
}

// PID is the process's id, 0 when there was none.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return 0
	}
	return p.proc.Pid
}

// Release closes what is left when the process has ended.
func (p *Process) Release() {
	for _, f := range []*os.File{p.dirFile, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Ended tells how the process ended, "" while it has not.
func (p *Process) Ended() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Done is closed when the process has ended, or is Stuck.
func (p *Process) Done() <-chan struct{} { return p.done }

// Errors is its stderr, for whoever reads it; nil before it was started.
func (p *Process) Errors() *os.File { return p.stderr }

// Wait implements runner.Runner.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill implements runner.Runner.
func (p *Process) Kill(context.Context) error {
	p.End()
	return nil
}

// Stdout implements runner.Runner: go-plugin sees the handshake, the first line.
// It would read no further than a line that is too long for it, and the plugin
// would hang at its next word.
func (p *Process) Stdout() io.ReadCloser { return io.NopCloser(&handshake{p: p}) }

// Words is what follows on the handshake, for whoever reads it.
func (p *Process) Words() io.Reader { return words{p} }

// first reads the first line, or as much of it as is taken.
func (p *Process) first() {
	p.once.Do(func() {
		line, _ := p.out.ReadSlice('\n')
		p.line = bytes.Clone(line)
	})
}

type handshake struct {
	p    *Process
	read int // of the line
}

func (h *handshake) Read(buf []byte) (int, error) {
	h.p.first()
	n := copy(buf, h.p.line[h.read:])
	if h.read += n; n == 0 && len(buf) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

type words struct{ p *Process }

func (w words) Read(buf []byte) (int, error) {
	w.p.first()
	return w.p.out.Read(buf)
}

// Stderr implements runner.Runner: go-plugin sees none of it.
func (p *Process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (p *Process) Name() string { return filepath.Base(p.Path) }

// ID implements runner.Runner.
func (p *Process) ID() string {
	if pid := p.PID(); pid != 0 {
		return strconv.Itoa(pid)
	}
	return ""
}

// Diagnose implements runner.Runner.
func (p *Process) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner: it turns the plugin's address into
// one that is good here, and refuses all but a socket in the plugin's folder.
func (p *Process) PluginToHost(network, addr string) (string, string, error) {
	if network != "unix" || filepath.Base(addr) == "." || strings.HasPrefix(filepath.Base(addr), "..") {
		return "", "", errors.New("the plugin does not listen in its socket folder")
	}
	if d := filepath.Dir(addr); d != "." && filepath.Clean(d) != filepath.Clean(p.Dir) {
		return "", "", errors.New("the plugin does not listen in its socket folder")
	}
	return network, fmt.Sprintf("/proc/self/fd/%d/%s", p.dirFile.Fd(), filepath.Base(addr)), nil
}

// HostToPlugin implements runner.Runner. Drivers do not call back.
func (p *Process) HostToPlugin(string, string) (string, string, error) {
	return "", "", errors.New("drivers have no way back to the host")
}
