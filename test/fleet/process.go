package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	restartPause = 300 * time.Millisecond // between an end and the next start
	killWait     = 20 * time.Second       // for the kernel to end what was killed
)

// Process is one program of the fleet, which is started again when it ends.
type Process struct {
	Name    string
	command func() *exec.Cmd
	log     string                      // the file that both streams go to
	note    func(name, what string)     // hears of each start and end
	ready   func(context.Context) error // nil when it serves
	points  string                      // folder of its failpoints, "" = it has none

	mu      sync.Mutex
	pid     int           // 0 = it does not run
	held    bool          // it stays down
	stopped bool          // for good
	changed chan struct{} // closed and replaced whenever one of these changes
	done    chan struct{} // closed when nothing is started any more
}

func newProcess(name, log string, note func(name, what string), command func() *exec.Cmd) *Process {
	return &Process{Name: name, command: command, log: log, note: note, changed: make(chan struct{}), done: make(chan struct{})}
}

// start begins to supervise.
func (p *Process) start() { go p.supervise() }

func (p *Process) supervise() {
	defer close(p.done)
	// The kernel tells a child of the end of the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		p.mu.Lock()
		held, stopped, changed := p.held, p.stopped, p.changed
		p.mu.Unlock()
		if stopped {
			return
		}
		if held {
			<-changed
			continue
		}
		p.once()
		pause := time.NewTimer(restartPause)
		select {
		case <-pause.C:
		case <-changed:
		}
		pause.Stop()
	}
}

// once runs the program to its end.
func (p *Process) once() {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.note(p.Name, "cannot start: "+err.Error())
		return
	}
	defer log.Close()
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT // nothing outlives the tests
	p.mu.Lock()
	if p.held || p.stopped {
		p.mu.Unlock()
		return
	}
	if err := cmd.Start(); err != nil {
		p.mu.Unlock()
		p.note(p.Name, "cannot start: "+err.Error())
		return
	}
	p.pid = cmd.Process.Pid
	p.signal()
	p.mu.Unlock()
	p.note(p.Name, fmt.Sprintf("started, pid %d", cmd.Process.Pid))
	err = cmd.Wait()
	p.mu.Lock()
	p.pid = 0
	p.signal()
	p.mu.Unlock()
	how := "exit 0"
	if err != nil {
		how = err.Error()
	}
	p.note(p.Name, "ended: "+how)
}

// signal wakes those who wait for a change. The lock is held.
func (p *Process) signal() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Pid is its process id, 0 while it does not run.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Signal sends sig, if it runs.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		return nil
	}
	return syscall.Kill(p.pid, sig)
}

// Down ends it with sig and keeps it down until Up.
func (p *Process) Down(ctx context.Context, sig syscall.Signal) error {
	p.mu.Lock()
	p.held = true
	p.signal()
	p.mu.Unlock()
	if err := p.Signal(sig); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	return p.await(ctx, func() bool { return p.pid == 0 })
}

// Up has it started again.
func (p *Process) Up() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = false
	p.signal()
}

// Ready waits until it serves.
func (p *Process) Ready(ctx context.Context) error {
	return poll(ctx, p.Name+" is ready", func() error {
		if p.Pid() == 0 {
			return errors.New("it does not run")
		}
		return p.ready(ctx)
	})
}

// stop ends it for good: by sig, and when that takes longer than grace by
// SIGKILL, which is an error.
func (p *Process) stop(sig syscall.Signal, grace time.Duration) error {
	p.mu.Lock()
	p.stopped = true
	p.signal()
	pid := p.pid
	p.mu.Unlock()
	if pid == 0 {
		<-p.done
		return nil
	}
	_ = syscall.Kill(pid, syscall.SIGCONT)
	_ = syscall.Kill(pid, sig)
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-p.done:
		return nil
	case <-late.C:
	}
	err := fmt.Errorf("%s: not ended %v after %v", p.Name, grace, sig)
	_ = syscall.Kill(pid, syscall.SIGKILL)
	<-p.done
	return err
}

// await waits until ok, which is asked with the lock held.
func (p *Process) await(ctx context.Context, ok func() bool) error {
	for {
		p.mu.Lock()
		good, changed := ok(), p.changed
		p.mu.Unlock()
		if good {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", p.Name, ctx.Err())
		}
	}
}

// poll asks until ok says nil.
func poll(ctx context.Context, what string, ok func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}
