package memdriver

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// knownSignal reports whether Signal knows name.
func knownSignal(name string) bool { return fatal(name) || harmless(name) }

// fatal reports whether a signal's default ends a process.
func fatal(name string) bool {
	switch name {
	case "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1",
		"SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGXCPU", "SIGSYS":
		return true
	}
	return false
}

// harmless reports whether a signal's default is to do nothing.
func harmless(name string) bool {
	switch name {
	case "SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH":
		return true
	}
	return false
}

// execution is one exec: a main task and those that it started.
type execution struct {
	sb      *sandbox
	spec    driver.ExecSpec
	out     *output
	started time.Time
	done    chan struct{} // closed when no task is left and the exit is known

	tree  *ending        // of everything at once
	tasks sync.WaitGroup // all but the main one

	mu      sync.Mutex
	main    *task
	group   []*task // the tasks in the main one's process group
	cause   step.Cause
	why     string
	ended   bool
	timers  []*time.Timer
	cpuUsec int64
}

func newExecution(sb *sandbox, spec driver.ExecSpec) *execution {
	x := &execution{sb: sb, spec: spec, started: time.Now(), done: make(chan struct{}), tree: newEnding()}
	limit := spec.OutputLimit
	if limit == 0 {
		limit = sb.spec.Resources.OutputKB << 10
	}
	x.out = newOutput(limit, spec.OnOutput, func() { x.kill(step.CauseOutput, "it wrote more than it may") })
	return x
}

// start runs the main task. The caller holds the sandbox's lock.
func (x *execution) start() {
	x.main = newTask(x, x.spec.Argv)
	x.main.stdin = bytes.NewReader(x.spec.Stdin)
	if x.spec.Timeout > 0 {
		x.later(x.spec.Timeout, func() {
			x.terminate(x.spec.Grace, step.CauseTimeout, "it ran for longer than "+x.spec.Timeout.String())
		})
	}
	x.sb.alive.Add(1)
	go func() {
		defer x.sb.alive.Done()
		code, err := 126, error(nil)
		if x.sb.use.addTask() {
			code, err = x.main.run()
			x.sb.use.endTask()
		} else {
			x.setCause(step.CausePids, "it has no process left to start")
		}
		x.tree.end(errKilled)
		x.tasks.Wait()
		x.finish(code, err)
	}()
}

// finish works out how it ended.
func (x *execution) finish(code int, err error) {
	x.mu.Lock()
	x.ended = true
	for _, t := range x.timers {
		t.Stop()
	}
	exit := driver.Exit{Cause: x.cause, Message: x.why, Code: code, Attested: step.AttestedKernel}
	cpu := x.cpuUsec
	x.mu.Unlock()
	var sig signalError
	if errors.As(err, &sig) {
		exit.Code, exit.Signal = -1, string(sig)
	}
	if exit.Cause == "" {
		exit.Cause = step.CauseExit
		if exit.Signal != "" {
			exit.Cause = step.CauseSignal
		}
	}
	st := x.sb.use.stats()
	exit.Usage = step.Usage{
		WallMS: time.Since(x.started).Milliseconds(), CPUUsec: cpu,
		MemoryPeakBytes: st.MemoryPeak, PidsPeak: st.PidsPeak,
	}
	x.out.finish(exit)
	close(x.done)
}

// later runs f after d, unless the exec has ended.
func (x *execution) later(d time.Duration, f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.ended {
		x.timers = append(x.timers, time.AfterFunc(d, f))
	}
}

// setCause says why it ends; the first one who says so is right.
func (x *execution) setCause(cause step.Cause, why string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cause == "" && !x.ended {
		x.cause, x.why = cause, why
	}
}

// kill ends the whole tree at once.
func (x *execution) kill(cause step.Cause, why string) {
	x.setCause(cause, why)
	x.tree.end(errKilled)
}

// terminate asks the main task's group to end, and kills the tree after grace.
func (x *execution) terminate(grace time.Duration, cause step.Cause, why string) {
	x.setCause(cause, why)
	x.deliver("SIGTERM")
	x.later(grace, func() { x.tree.end(errKilled) })
}

// signal is what Signal does.
func (x *execution) signal(name string) error {
	x.mu.Lock()
	ended := x.ended
	x.mu.Unlock()
	if ended {
		return step.Errorf(step.KindConflict, "exec %s has exited", x.spec.ID)
	}
	x.deliver(name)
	return nil
}

func (x *execution) deliver(name string) {
	if name == "SIGKILL" {
		x.tree.end(errKilled)
		return
	}
	if !fatal(name) {
		return
	}
	x.mu.Lock()
	group := append([]*task{x.main}, x.group...)
	x.mu.Unlock()
	for _, t := range group {
		if name != "SIGTERM" || !t.ignoresTerm.Load() {
			t.own.end(signalError(name))
		}
	}
}

// used counts processor time of the exec.
func (x *execution) used(cpuUsec int64) {
	x.sb.use.spent(cpuUsec)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cpuUsec += cpuUsec
}
