package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"

	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
)

// How much of a plugin's stderr is kept.
const (
	keptLines = 20
	keptWidth = 500 // bytes of a line
)

// child runs the process for go-plugin. Its end is noticed though a grandchild
// keeps its pipes open, and its stderr never reaches go-plugin's parser.
type child struct {
	path    string
	env     []string
	dir     string // its working folder, where its socket is
	dirFile *os.File

	cmd            *exec.Cmd
	stdout, stderr *os.File
	done           chan struct{} // closed when the process has ended
	read           chan struct{} // closed when its stderr was read to the end

	mu      sync.Mutex
	proc    *os.Process
	killed  bool // perhaps before there was a process
	started bool
	freed   bool
	state   string
	lines   []string
}

var _ runner.Runner = (*child)(nil)

// baseEnv is all that a plugin sees of an environment, but for go-plugin's own
// variables.
func baseEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TZ=UTC",
		driverrpc.EnvHostPID + "=" + strconv.Itoa(os.Getpid()),
	}
}

// Start implements runner.Runner.
func (c *child) Start(context.Context) error {
	var err error
	if c.dirFile, err = os.Open(c.dir); err != nil {
		return err
	}
	stdoutR, stdoutW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdoutW.Close()
	stderrR, stderrW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdoutR.Close())
	}
	defer stderrW.Close()
	c.stdout, c.stderr = stdoutR, stderrR
	c.cmd = &exec.Cmd{
		Path: c.path, Args: []string{c.path}, Env: c.env, Dir: c.dir, Stdout: stdoutW, Stderr: stderrW,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true}, // an interrupt of the tool is not one of the plugin
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.mu.Lock()
	c.proc, c.started = c.cmd.Process, true
	early := c.killed
	c.mu.Unlock()
	go c.reap()
	go c.readStderr()
	if early {
		c.kill()
	}
	return nil
}

// reap waits for the end. The pipes are then given a moment to hand over what
// is in them, whoever else still holds them.
func (c *child) reap() {
	err := c.cmd.Wait()
	c.mu.Lock()
	c.state = "exit status 0"
	if err != nil {
		c.state = err.Error()
	}
	c.mu.Unlock()
	soon := time.Now().Add(300 * time.Millisecond)
	_ = c.stdout.SetReadDeadline(soon)
	_ = c.stderr.SetReadDeadline(soon)
	close(c.done)
}

// readStderr keeps the last lines.
func (c *child) readStderr() {
	defer close(c.read)
	in := bufio.NewReaderSize(c.stderr, 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		if text := strings.TrimRight(string(line[:min(len(line), keptWidth)]), "\r\n"); text != "" {
			c.mu.Lock()
			c.lines = append(c.lines, strings.ToValidUTF8(text, "�"))
			c.lines = c.lines[max(0, len(c.lines)-keptLines):]
			c.mu.Unlock()
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that is too long
			_, err = in.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

func (c *child) lastLines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	if c.proc != nil {
		_ = c.proc.Kill() // by its descriptor: never another's pid
	}
}

func (c *child) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		return 0
	}
	return c.proc.Pid
}

func (c *child) ended() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// endedSoon is ended, for a process that has closed its pipes and may be about
// to end.
func (c *child) endedSoon() string {
	c.mu.Lock()
	started := c.started
	c.mu.Unlock()
	if started {
		timer := time.NewTimer(300 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-c.done:
		case <-timer.C:
		}
	}
	return c.ended()
}

// release waits for a killed process and closes what is left of it.
func (c *child) release() {
	c.mu.Lock()
	started, freed := c.started, c.freed
	c.freed = true
	c.mu.Unlock()
	if freed {
		return
	}
	if started {
		<-c.done
		<-c.read
	}
	for _, f := range []*os.File{c.dirFile, c.stdout, c.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Wait implements runner.Runner.
func (c *child) Wait(ctx context.Context) error {
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill implements runner.Runner.
func (c *child) Kill(context.Context) error {
	c.kill()
	return nil
}

// Stdout implements runner.Runner.
func (c *child) Stdout() io.ReadCloser { return c.stdout }

// Stderr implements runner.Runner: go-plugin sees none of it.
func (c *child) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (c *child) Name() string { return filepath.Base(c.path) }

// ID implements runner.Runner.
func (c *child) ID() string {
	if pid := c.pid(); pid != 0 {
		return strconv.Itoa(pid)
	}
	return ""
}

// Diagnose implements runner.Runner.
func (c *child) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner: it turns the plugin's address into one
// that is good here, and refuses all but a socket in the plugin's folder.
func (c *child) PluginToHost(network, addr string) (string, string, error) {
	base := filepath.Base(addr)
	if network != "unix" || base == "." || strings.HasPrefix(base, "..") {
		return "", "", errors.New("the plugin does not listen in its socket folder")
	}
	if d := filepath.Dir(addr); d != "." && filepath.Clean(d) != filepath.Clean(c.dir) {
		return "", "", errors.New("the plugin does not listen in its socket folder")
	}
	return network, fmt.Sprintf("/proc/self/fd/%d/%s", c.dirFile.Fd(), base), nil
}

// HostToPlugin implements runner.Runner. Drivers do not call back.
func (c *child) HostToPlugin(string, string) (string, string, error) {
	return "", "", errors.New("drivers have no way back to the host")
}
