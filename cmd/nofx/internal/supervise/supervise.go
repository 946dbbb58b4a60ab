// Package supervise keeps the child processes of `nofx up` running.
//
// A Child is started, its output goes to a bounded log file, its id to a pid
// file; when it dies it is started again, at once the first time and with
// growing, jittered pauses after. Children are in process groups of their
// own, so that a Ctrl-C on the terminal reaches only `nofx up`, which then
// ends them in order. They write to their log files directly and survive the
// sudden death of their parent; the next `nofx up` finds them by Stale.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	firstPause  = 250 * time.Millisecond
	maxPause    = 15 * time.Second
	stableAfter = 20 * time.Second // a child that ran this long starts over with no pause
	killWait    = 10 * time.Second
)

// Spec describes one child.
type Spec struct {
	Name string // of the pid file and of the log file
	// Command makes a fresh command for each start. Its output, process group
	// and credentials' group are left to the Child.
	Command func() (*exec.Cmd, error)
	// Stop asks the child to end in good order; it has Grace to do so.
	Stop  syscall.Signal
	Grace time.Duration
	// Abort ends it without ceremony, after Grace or when in a hurry.
	// Zero means SIGKILL.
	Abort syscall.Signal
}

// Child is one supervised process.
type Child struct {
	spec   Spec
	runDir string
	logDir string
	log    *slog.Logger

	mu       sync.Mutex
	started  time.Time
	starts   int
	logStart int64
}

// New makes a child that keeps its pid file in runDir and its log in logDir.
func New(spec Spec, runDir, logDir string, log *slog.Logger) *Child {
	if spec.Abort == 0 {
		spec.Abort = syscall.SIGKILL
	}
	return &Child{spec: spec, runDir: runDir, logDir: logDir, log: log}
}

// LogPath is the child's log file.
func (c *Child) LogPath() string { return filepath.Join(c.logDir, c.spec.Name+".log") }

// Starts counts how often the child was started, and LogStart is the size
// that the log had at the newest start.
func (c *Child) Starts() (n int, logStart int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.starts, c.logStart
}

// Run keeps the child running until ctx is done, then stops it and returns
// nil when it has ended. Closing hurry cuts its grace short. The first start
// failing is an error; later ones are logged and repeated.
func (c *Child) Run(ctx context.Context, hurry <-chan struct{}) error {
	logfile, err := openLog(c.LogPath())
	if err != nil {
		return fmt.Errorf("log of %s: %w", c.spec.Name, err)
	}
	defer logfile.Close()

	rotating, stopRotating := context.WithCancel(context.WithoutCancel(ctx))
	var rotator sync.WaitGroup
	rotator.Go(func() { c.rotate(rotating, logfile) })
	defer rotator.Wait()
	defer stopRotating()

	var quick int // deaths in a row without a stable run between them
	for {
		exited, err := c.start(logfile)
		if err != nil {
			if n, _ := c.Starts(); n == 0 {
				return fmt.Errorf("start %s: %w", c.spec.Name, err)
			}
			c.log.Error("start failed", "process", c.spec.Name, "err", err)
		} else {
			select {
			case <-ctx.Done():
				return c.stop(exited, hurry)
			case end := <-exited.done:
				c.removePid()
				c.log.Warn("process died", "process", c.spec.Name, "pid", exited.pid, "end", end.String())
			}
		}
		if time.Since(c.startedAt()) >= stableAfter {
			quick = 0
		}
		quick++
		if !sleep(ctx, pause(quick)) {
			return nil
		}
	}
}

// process is one running incarnation. done receives its end, once.
type process struct {
	pid  int
	proc *os.Process
	done chan *os.ProcessState
}

func (c *Child) start(logfile *os.File) (*process, error) {
	cmd, err := c.spec.Command()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = logfile, logfile
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, mark(c.runDir, c.spec.Name))

	size, err := logfile.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := writePid(c.runDir, c.spec.Name, cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		_, _ = cmd.Process.Wait()
		return nil, err
	}
	c.mu.Lock()
	c.started, c.logStart = time.Now(), size
	c.starts++
	c.mu.Unlock()

	p := &process{pid: cmd.Process.Pid, proc: cmd.Process, done: make(chan *os.ProcessState, 1)}
	go func() {
		_ = cmd.Wait() // the state says it all
		p.done <- cmd.ProcessState
	}()
	c.log.Info("started", "process", c.spec.Name, "pid", p.pid)
	return p, nil
}

// stop ends a running child: its own stop signal, its grace, then force.
func (c *Child) stop(p *process, hurry <-chan struct{}) error {
	defer c.removePid()
	steps := []struct {
		sig   syscall.Signal
		grace time.Duration
		hurry <-chan struct{}
	}{
		{c.spec.Stop, c.spec.Grace, hurry},
		{c.spec.Abort, killWait, nil},
		{syscall.SIGKILL, killWait, nil},
	}
	for _, s := range steps {
		if err := p.proc.Signal(s.sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop %s (pid %d): %w", c.spec.Name, p.pid, err)
		}
		timer := time.NewTimer(s.grace)
		select {
		case end := <-p.done:
			timer.Stop()
			c.log.Info("stopped", "process", c.spec.Name, "pid", p.pid, "end", end.String())
			return nil
		case <-timer.C:
		case <-s.hurry:
			timer.Stop()
		}
	}
	return fmt.Errorf("stop %s (pid %d): it does not die", c.spec.Name, p.pid)
}

func (c *Child) startedAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started
}

func (c *Child) removePid() {
	if err := removePid(c.runDir, c.spec.Name); err != nil {
		c.log.Warn("pid file stays", "process", c.spec.Name, "err", err)
	}
}

// pause is how long to wait before the n-th start in a row: nothing the first
// time, then doubling, within maxPause, with a jitter of a quarter.
func pause(n int) time.Duration {
	if n <= 1 {
		return 0
	}
	d := maxPause
	if n < 10 {
		d = min(firstPause<<(n-2), maxPause)
	}
	return d - time.Duration(rand.Int64N(int64(d)/4+1))
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
