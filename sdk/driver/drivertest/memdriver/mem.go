package memdriver

import (
	"fmt"
	"io"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// mem does what tests need and ordinary programs do not:
//
//	mem exit N           exits with N
//	mem signal SIGNAL    dies of it
//	mem print OUT ERR    writes OUT to stdout and ERR to stderr
//	mem wait SECONDS     says ready and waits
//	mem stubborn         ignores SIGTERM, says ready and waits for ever
//	mem count N SECONDS  writes 1 to N, a line each, with pauses between
//	mem flood BYTES      writes the numbers from 1, cut off at BYTES
//	mem beat FILE        adds a byte to FILE every 20 ms, for ever
//	mem daemon FILE      starts a beat that has left its process group, says ready, waits for ever
//	mem alloc MIB        takes that much memory
//	mem fork N           starts N tasks
//	mem fill FILE MIB    writes that much to FILE
//	mem spin SECONDS     uses that much processor time
//	mem busy SECONDS     uses all that it may for so long, and says how much
//	mem transfer F MIB   takes as long as a disk would to write and read that much, and says how long
//	mem call HOST PORT   says what a server there says first
//	mem terminal         says how large the terminal is, or none
func mem(t *task, args []string) (int, error) {
	if len(args) == 0 {
		return fail(t, fmt.Errorf("what shall I do?"))
	}
	what, args := args[0], args[1:]
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch what {
	case "exit":
		n, err := number(args, 0)
		if err != nil {
			return fail(t, err)
		}
		return int(n & 255), nil
	case "signal":
		return kill(t, []string{"-" + arg(0)})
	case "print":
		if _, err := io.WriteString(t.stdout, arg(0)); err != nil {
			return 1, err
		}
		_, err := io.WriteString(t.stderr, arg(1))
		return 0, err
	case "wait":
		d, err := seconds(args)
		if err != nil {
			return fail(t, err)
		}
		return ready(t, d)
	case "stubborn":
		t.ignoresTerm.Store(true)
		return ready(t, -1)
	case "flood":
		return flood(t, args)
	case "count":
		n, err := number(args, 0)
		if err != nil {
			return fail(t, err)
		}
		d, err := seconds(args[1:])
		if err != nil {
			return fail(t, err)
		}
		for i := range n {
			if _, err := fmt.Fprintln(t.stdout, i+1); err != nil {
				return 1, err
			}
			if err := t.wait(d); err != nil {
				return 0, err
			}
		}
		return 0, nil
	case "beat":
		return beat(t, arg(0))
	case "daemon":
		if err := t.spawn([]string{"mem", "beat", arg(0)}, false); err != nil {
			return fail(t, err)
		}
		return ready(t, -1)
	case "alloc", "fork", "fill", "spin":
		return consume(t, what, args)
	case "busy":
		return busy(t, args)
	case "transfer":
		return transfer(t, args)
	case "call":
		return call(t, arg(0), arg(1))
	case "terminal":
		if tty := t.x.spec.TTY; tty != nil {
			return say(t, fmt.Sprintf("%d %d\r\n", tty.Rows, tty.Cols))
		}
		return say(t, "none\n")
	}
	return fail(t, fmt.Errorf("mem %s is not known", what))
}

// ready says so and waits.
func ready(t *task, d time.Duration) (int, error) {
	if _, err := io.WriteString(t.stdout, "ready\n"); err != nil {
		return 1, err
	}
	return 0, t.wait(d)
}

// flood writes exactly n bytes.
func flood(t *task, args []string) (int, error) {
	n, err := number(args, 0)
	if err != nil {
		return fail(t, err)
	}
	out := t.stdout
	t.stdout = &limited{w: out, left: n}
	defer func() { t.stdout = out }()
	return count(t, func(_, bytes int64) bool { return bytes < n })
}

// limited drops what is written beyond a number of bytes.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(int64(len(p)), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

func beat(t *task, name string) (int, error) {
	for {
		if err := t.x.sb.files.write(t.abs(name), []byte("."), 0o644, true); err != nil {
			return fail(t, err)
		}
		if err := t.wait(20 * time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// consume uses up one of the capped resources.
func consume(t *task, what string, args []string) (int, error) {
	switch what {
	case "fill":
		n, err := number(args, 1)
		if err != nil {
			return fail(t, err)
		}
		for range n {
			if err := t.x.sb.files.write(t.abs(args[0]), make([]byte, 1<<20), 0o644, true); err != nil {
				return fail(t, err)
			}
		}
		return 0, t.alive()
	case "spin":
		d, err := seconds(args)
		if err != nil {
			return fail(t, err)
		}
		wall := d
		if c := t.x.sb.spec.Resources.CPU; c > 0 && c < 1 {
			wall = time.Duration(float64(d) / c)
		}
		start := time.Now()
		err = t.wait(wall)
		t.x.used(int64(float64(d.Microseconds()) * min(1, float64(time.Since(start))/float64(max(wall, 1)))))
		return 0, err
	}
	n, err := number(args, 0)
	if err != nil || n < 0 || n > 1<<20 {
		return fail(t, fmt.Errorf("mem %s %d: %w", what, n, err))
	}
	if what == "alloc" {
		if !t.x.sb.use.alloc(n << 20) {
			t.x.kill(step.CauseOOM, "it has no memory left to take")
			return 0, t.wait(-1)
		}
		t.memory += n << 20
		return 0, t.alive()
	}
	for range n {
		if err := t.spawn([]string{"sleep", "1000000"}, true); err != nil {
			t.x.setCause(step.CausePids, "it has no process left to start")
			return fail(t, err)
		}
	}
	return 0, t.alive()
}
