package memdriver

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// program runs in a task and gives its exit code; the error is the signal that
// ended it.
type programFunc func(t *task, args []string) (int, error)

// program finds one by its name, nil if there is none.
func program(name string) programFunc {
	switch name {
	case "true", ":":
		return func(*task, []string) (int, error) { return 0, nil }
	case "false":
		return func(*task, []string) (int, error) { return 1, nil }
	case "echo":
		return echo
	case "cat":
		return cat
	case "tee":
		return tee
	case "rm":
		return remove
	case "sleep":
		return sleep
	case "env", "printenv":
		return env
	case "pwd":
		return func(t *task, _ []string) (int, error) { return say(t, t.cwd+"\n") }
	case "seq":
		return seq
	case "kill":
		return kill
	case "sh", "bash", "dash":
		return shell
	case "mem":
		return mem
	}
	return nil
}

func say(t *task, s string) (int, error) {
	_, err := io.WriteString(t.stdout, s)
	return 0, err
}

// fail says on stderr what went wrong; a full disk is also the exec's cause.
func fail(t *task, err error) (int, error) {
	if errors.Is(err, errNoSpace) {
		t.x.setCause(step.CauseDisk, "its disk is full")
	}
	fmt.Fprintf(t.stderr, "%s: %v\n", t.argv[0], err)
	return 1, nil
}

func echo(t *task, args []string) (int, error) {
	end := "\n"
	if len(args) > 0 && args[0] == "-n" {
		args, end = args[1:], ""
	}
	return say(t, strings.Join(args, " ")+end)
}

func cat(t *task, args []string) (int, error) {
	if len(args) == 0 {
		_, err := io.Copy(t.stdout, t.stdin)
		return 0, err
	}
	for _, name := range args {
		if text, ok := t.x.sb.proc(t.abs(name)); ok {
			if _, err := say(t, text); err != nil {
				return 1, err
			}
			continue
		}
		data, err := t.x.sb.files.read(t.abs(name))
		if err != nil {
			return fail(t, err)
		}
		if _, err := t.stdout.Write(data); err != nil {
			return 1, err
		}
	}
	return 0, nil
}

func tee(t *task, args []string) (int, error) {
	data, err := io.ReadAll(t.stdin)
	if err != nil {
		return fail(t, err)
	}
	for _, name := range args {
		if err := t.x.sb.files.write(t.abs(name), data, 0o644, false); err != nil {
			return fail(t, err)
		}
	}
	_, err = t.stdout.Write(data)
	return 0, err
}

func remove(t *task, args []string) (int, error) {
	force := false
	for _, name := range args {
		if strings.HasPrefix(name, "-") {
			force = force || strings.Contains(name, "f")
			continue
		}
		if err := t.x.sb.files.remove(t.abs(name)); err != nil && (!force || !errors.Is(err, fs.ErrNotExist)) {
			return fail(t, err)
		}
	}
	return 0, nil
}

// sleep takes seconds, also as a fraction.
func sleep(t *task, args []string) (int, error) {
	d, err := seconds(args)
	if err != nil {
		return fail(t, err)
	}
	return 0, t.wait(d)
}

func seconds(args []string) (time.Duration, error) {
	if len(args) != 1 {
		return 0, errors.New("one number is needed")
	}
	n, err := strconv.ParseFloat(strings.TrimSuffix(args[0], "s"), 64)
	if err != nil || n < 0 || n > 1e9 {
		return 0, fmt.Errorf("%q is no number of seconds", args[0])
	}
	return time.Duration(n * float64(time.Second)), nil
}

func env(t *task, args []string) (int, error) {
	if len(args) > 0 {
		for _, name := range args {
			for _, kv := range t.env {
				if v, ok := strings.CutPrefix(kv, name+"="); ok {
					return say(t, v+"\n")
				}
			}
		}
		return 1, nil
	}
	all := append([]string(nil), t.env...)
	sort.Strings(all)
	return say(t, strings.Join(all, "\n")+"\n")
}

// seq counts from 1.
func seq(t *task, args []string) (int, error) {
	n, err := number(args, 0)
	if err != nil {
		return fail(t, err)
	}
	return count(t, func(line, _ int64) bool { return line <= n })
}

// count writes the numbers from 1, a line each, while more says so for the
// line and the bytes before it.
func count(t *task, more func(line, bytes int64) bool) (int, error) {
	var total int64
	buf := make([]byte, 0, chunkSize)
	for line := int64(1); more(line, total); line++ {
		before := len(buf)
		buf = append(strconv.AppendInt(buf, line, 10), '\n')
		total += int64(len(buf) - before)
		if len(buf) > chunkSize-32 {
			if err := t.alive(); err != nil {
				return 0, err
			}
			if _, err := t.stdout.Write(buf); err != nil {
				return 1, err
			}
			buf = buf[:0]
		}
	}
	_, err := t.stdout.Write(buf)
	return 0, err
}

// kill takes -SIGNAL and $$, the task's own process.
func kill(t *task, args []string) (int, error) {
	name := "SIGTERM"
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name = "SIG" + strings.TrimPrefix(strings.ToUpper(args[0][1:]), "SIG")
		if args[0] == "-9" {
			name = "SIGKILL"
		}
	}
	if !knownSignal(name) {
		return fail(t, fmt.Errorf("%s is no signal", name))
	}
	if name != "SIGTERM" || !t.ignoresTerm.Load() {
		t.own.end(signalError(name))
	}
	return 0, t.alive()
}

func number(args []string, i int) (int64, error) {
	if len(args) <= i {
		return 0, errors.New("a number is missing")
	}
	return strconv.ParseInt(args[i], 10, 64)
}
