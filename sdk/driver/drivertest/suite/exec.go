package suite

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func execCases() []testCase {
	return []testCase{
		{"ExitCodes", func(t T, fx *fixture) {
			for _, code := range []int{0, 1, 7, 255} {
				r := fx.run(t, fx.create(t), fx.exec(fx.Programs.Exit(code)))
				if r.exit.Cause != step.CauseExit || r.exit.Code != code || r.exit.Signal != "" {
					t.Errorf("exit %d: got %+v", code, *r.exit)
				}
			}
		}},
		{"SignalDeath", func(t T, fx *fixture) {
			for _, sig := range []string{"SIGSEGV", "SIGKILL"} {
				r := fx.run(t, fx.create(t), fx.exec(fx.Programs.Die(sig)))
				if r.exit.Cause != step.CauseSignal || r.exit.Signal != sig || r.exit.Code != -1 {
					t.Errorf("death by %s: got %+v", sig, *r.exit)
				}
			}
		}},
		{"UnknownCommand", func(t T, fx *fixture) {
			c := newCollector(0)
			err := fx.d.Exec(fx.ctx(t), fx.create(t), fx.exec([]string{"no-such-command-at-all"}), c.sink)
			if err != nil {
				wantKind(t, "exec of what is not there", err, step.KindInvalid, step.KindNotFound)
				return
			}
			if r := c.finish(t); r.exit.Cause != step.CauseExit || r.exit.Code != 126 && r.exit.Code != 127 {
				t.Errorf("exec of what is not there: %+v, want exit 127 or an error", *r.exit)
			}
		}},
		{"ExecRefusesInvalid", func(t T, fx *fixture) {
			h := fx.create(t)
			for what, f := range map[string]func(*driver.ExecSpec){
				"no argv":          func(e *driver.ExecSpec) { e.Argv = nil },
				"an empty id":      func(e *driver.ExecSpec) { e.ID = "" },
				"a path as id":     func(e *driver.ExecSpec) { e.ID = "../x" },
				"a long id":        func(e *driver.ExecSpec) { e.ID = strings.Repeat("x", 65) },
				"a bad variable":   func(e *driver.ExecSpec) { e.Env = []string{"=x"} },
				"a NUL":            func(e *driver.ExecSpec) { e.Argv = []string{"a\x00b"} },
				"a relative cwd":   func(e *driver.ExecSpec) { e.Cwd = "tmp" },
				"a negative limit": func(e *driver.ExecSpec) { e.OutputLimit = -1 },
				"a large stdin":    func(e *driver.ExecSpec) { e.Stdin = make([]byte, driver.MaxStdin+1) },
			} {
				wantKind(t, "exec with "+what, fx.d.Exec(fx.ctx(t), h, fx.exec(fx.Programs.Exit(0), f), ignore), step.KindInvalid)
			}
		}},
		{"Stdin", func(t T, fx *fixture) {
			in := FloodBytes(300_000)
			r := fx.run(t, fx.create(t), fx.exec(fx.Programs.Cat, func(e *driver.ExecSpec) { e.Stdin = in }))
			if !bytes.Equal(r.stdout, in) || r.exit.Cause != step.CauseExit || r.exit.Code != 0 {
				t.Errorf("stdin: %d of %d bytes came back, exit %+v", len(r.stdout), len(in), *r.exit)
			}
			r = fx.run(t, fx.create(t), fx.exec(fx.Programs.Cat))
			if len(r.all) != 0 || r.exit.Cause != step.CauseExit || r.exit.Code != 0 {
				t.Errorf("no stdin: %q, exit %+v; want an end of file from the start", r.all, *r.exit)
			}
			// A program that does not read must not make the driver wait.
			r = fx.run(t, fx.create(t), fx.exec(fx.Programs.Exit(4), func(e *driver.ExecSpec) { e.Stdin = make([]byte, driver.MaxStdin) }))
			if r.exit.Cause != step.CauseExit || r.exit.Code != 4 {
				t.Errorf("stdin that nobody reads: exit %+v", *r.exit)
			}
		}},
		{"EnvIsComplete", func(t T, fx *fixture) {
			env := append(slices.Clone(fx.Env), "EMPTY=", "SPACES= a  b ", "EQUALS=a=b", "UNICODE=grüße 雪", "LONG="+strings.Repeat("x", 100_000))
			r := fx.run(t, fx.create(t), fx.exec(fx.Programs.Env, func(e *driver.ExecSpec) { e.Env = env }))
			got := strings.Split(strings.TrimSuffix(string(r.stdout), "\n"), "\n")
			slices.Sort(got)
			want := slices.Clone(env)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("the environment is not what was given:\n got %.2000q\nwant %.2000q", got, want)
			}
		}},
		{"Cwd", func(t T, fx *fixture) {
			for cwd, want := range map[string]string{"": "/workspace\n", "/tmp": "/tmp\n", "/": "/\n"} {
				r := fx.run(t, fx.create(t), fx.exec(fx.Programs.Pwd, func(e *driver.ExecSpec) { e.Cwd = cwd }))
				if string(r.stdout) != want {
					t.Errorf("cwd %q: it says %q (stderr %q)", cwd, r.stdout, r.stderr)
				}
			}
		}},
		{"WorkspaceIsWritable", func(t T, fx *fixture) {
			h := fx.create(t)
			r := fx.run(t, h, fx.exec(fx.Programs.Append("/workspace/note", "written")))
			if r.exit.Cause != step.CauseExit || r.exit.Code != 0 {
				t.Fatalf("writing to /workspace: %+v, %q", *r.exit, r.stderr)
			}
			if got := fx.readFile(t, h, "/workspace/note"); string(got) != "written" {
				t.Errorf("the file in /workspace holds %q", got)
			}
		}},
		{"ExecIsIdempotent", func(t T, fx *fixture) {
			h := fx.create(t)
			s := fx.exec(fx.Programs.Append("/workspace/once", "x"))
			first := fx.run(t, h, s)
			second := fx.run(t, h, s)
			if first.exit.Code != 0 || *first.exit != *second.exit {
				t.Errorf("the repeated exec ends with %+v, the first with %+v", *second.exit, *first.exit)
			}
			if got := fx.readFile(t, h, "/workspace/once"); string(got) != "x" {
				t.Errorf("it ran more than once: the file holds %q", got)
			}
			if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || len(st.Execs) == 0 || st.Execs[0].ID != s.ID {
				t.Errorf("recover: %+v, %v", st, err)
			}
		}},
		{"ExecRepeatedWhileRunning", func(t T, fx *fixture) {
			h := fx.create(t)
			s := fx.exec(fx.Programs.Wait(700 * time.Millisecond))
			first := fx.startReady(t, h, s)
			second := fx.run(t, h, s)
			if r := first.wait(t); string(r.all) != "ready\n" || string(second.all) != "ready\n" || *r.exit != *second.exit {
				t.Errorf("two readers of one exec: %q %+v and %q %+v", r.all, *r.exit, second.all, *second.exit)
			}
		}},
		{"TwoExecsAtOnce", func(t T, fx *fixture) {
			fx.needSeveral(t)
			h := fx.create(t)
			long := fx.startReady(t, h, fx.exec(fx.Programs.Wait(time.Minute)))
			if r := fx.run(t, h, fx.exec(fx.Programs.Print("second", "err"))); string(r.stdout) != "second" || string(r.stderr) != "err" {
				t.Errorf("the second exec says %q and %q", r.stdout, r.stderr)
			}
			if err := fx.d.Signal(fx.ctx(t), h, long.spec.ID, "SIGKILL"); err != nil {
				t.Errorf("signal: %v", err)
			}
			if r := long.wait(t); string(r.all) != "ready\n" || r.exit.Signal != "SIGKILL" {
				t.Errorf("the first exec says %q and ends with %+v", r.all, *r.exit)
			}
		}},
		{"Terminal", func(t T, fx *fixture) {
			fx.need(t, driver.CapTTY, nil) // the refusal is in RefusesWhatItCannot
			needProgram(t, "terminal", len(fx.Programs.Terminal) > 0)
			r := fx.run(t, fx.create(t), fx.exec(fx.Programs.Terminal, func(e *driver.ExecSpec) { e.TTY = &driver.TTY{Cols: 77, Rows: 33} }))
			if got := strings.TrimSpace(string(r.stdout)); got != "33 77" {
				t.Errorf("a terminal of 33 rows and 77 columns: it says %q (%q)", got, r.stderr)
			}
			r = fx.run(t, fx.create(t), fx.exec(fx.Programs.Terminal))
			if got := strings.TrimSpace(string(r.stdout)); got != "none" {
				t.Errorf("without one: it says %q (%q)", got, r.stderr)
			}
		}},
		{"CancelDetaches", func(t T, fx *fixture) {
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Wait(time.Minute)))
			x.cancel()
			wantCancelled(t, "a cancelled exec", x.detached(t))
			fx.stillRuns(t, h, x.spec.ID)
		}},
		{"SinkErrorDetaches", func(t T, fx *fixture) {
			h := fx.create(t)
			s := fx.exec(fx.Programs.Wait(time.Minute))
			full := errors.New("the sink is full")
			if err := fx.d.Exec(fx.ctx(t), h, s, func(driver.ExecEvent) error { return full }); !errors.Is(err, full) {
				t.Errorf("exec with a sink that fails: %v", err)
			}
			fx.stillRuns(t, h, s.ID)
		}},
		{"DeadlineDetaches", func(t T, fx *fixture) {
			h := fx.create(t)
			s := fx.exec(fx.Programs.Wait(time.Minute))
			ctx, cancel := context.WithTimeout(fx.ctx(t), time.Duration(fx.Patience*float64(time.Second)))
			defer cancel()
			if err := fx.d.Exec(ctx, h, s, ignore); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("exec past its call's deadline: %v", err)
			}
			fx.stillRuns(t, h, s.ID)
		}},
	}
}

// stillRuns checks that nobody who went away has ended an exec, and stops it.
func (fx *fixture) stillRuns(t T, h driver.Handle, id string) {
	t.Helper()
	fx.pause(t, 200*time.Millisecond)
	st, err := fx.d.Recover(fx.ctx(t), h)
	if err != nil || st.Phase != driver.PhaseRunning || len(st.Execs) != 1 || st.Execs[0].Exit != nil {
		t.Fatalf("after detaching it is %+v (%v), want running", st, err)
	}
	if err := fx.d.Stop(fx.ctx(t), h, 5*time.Second, step.CauseCancelled); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if r := fx.attach(t, h, id, 0); string(r.all) != "ready\n" || r.exit.Cause != step.CauseCancelled {
		t.Errorf("the detached exec says %q and ends with %+v", r.all, *r.exit)
	}
}
