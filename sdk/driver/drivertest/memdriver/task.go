package memdriver

import (
	"fmt"
	"io"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// task is what a process is elsewhere: a running program.
type task struct {
	x           *execution
	own         *ending
	argv        []string
	env         []string
	cwd         string
	stdin       io.Reader
	stdout      io.Writer
	stderr      io.Writer
	ignoresTerm atomic.Bool
	memory      int64 // bytes that it has taken
}

func newTask(x *execution, argv []string) *task {
	t := &task{x: x, own: newEnding(), argv: argv, env: x.spec.Env, cwd: x.spec.Cwd, stdin: strings.NewReader("")}
	if t.cwd == "" {
		t.cwd = "/workspace"
	}
	t.stdout = stream{x.out, driver.Stdout}
	t.stderr = stream{x.out, driver.Stderr}
	return t
}

// run runs the program to its end. The error is a signalError when a signal
// ended it.
func (t *task) run() (int, error) {
	defer func() { t.x.sb.use.alloc(-t.memory) }()
	if err := t.x.sb.files.isDir(t.cwd); err != nil {
		fmt.Fprintf(t.stderr, "%s: %v\n", t.cwd, err)
		return 126, nil
	}
	code, err := t.command(t.argv)
	if err == nil {
		err = t.alive() // a signal may have come first
	}
	return code, err
}

// command runs one program in this task.
func (t *task) command(argv []string) (int, error) {
	p := program(path.Base(argv[0]))
	if p == nil {
		fmt.Fprintf(t.stderr, "%s: command not found\n", argv[0])
		return 127, nil
	}
	return p(t, argv[1:])
}

// spawn starts argv as a task of its own; group says whether it stays in the
// main task's process group. The error is for a cap that forbids it.
func (t *task) spawn(argv []string, group bool) error {
	if !t.x.sb.use.addTask() {
		return step.Errorf(step.KindTooLarge, "fork: resource temporarily unavailable")
	}
	child := newTask(t.x, argv)
	child.cwd, child.env = t.cwd, t.env
	if group {
		t.x.mu.Lock()
		t.x.group = append(t.x.group, child)
		t.x.mu.Unlock()
	}
	t.x.tasks.Add(1)
	go func() {
		defer t.x.tasks.Done()
		defer t.x.sb.use.endTask()
		_, _ = child.run()
	}()
	return nil
}

// wait lets d pass; d < 0 is for ever. The error is the signal that ended it.
func (t *task) wait(d time.Duration) error {
	if d == 0 {
		return t.alive()
	}
	var timer <-chan time.Time
	if d > 0 {
		tm := time.NewTimer(d)
		defer tm.Stop()
		timer = tm.C
	}
	select {
	case <-timer:
		return nil
	case <-t.own.done:
	case <-t.x.tree.done:
	}
	return t.alive()
}

// alive is the signal that has ended the task, if one has.
func (t *task) alive() error {
	if err := t.own.err(); err != nil {
		return err
	}
	return t.x.tree.err()
}

// abs is name as seen from the task's folder.
func (t *task) abs(name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(t.cwd, name)
}

// stream writes to one of the exec's streams.
type stream struct {
	out *output
	to  driver.Stream
}

func (s stream) Write(p []byte) (int, error) {
	s.out.write(s.to, p)
	return len(p), nil
}
