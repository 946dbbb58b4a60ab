package memdriver_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
	"github.com/nofx-run/nofx/sdk/step"
)

// sandbox makes one that goes with the test.
func sandbox(t testing.TB, r step.Resources) (driver.Driver, driver.Handle) {
	t.Helper()
	w := memdriver.NewWorld()
	t.Cleanup(w.Close)
	d := memdriver.New(w, memdriver.Options{})
	h, err := d.Create(context.Background(), driver.Spec{ID: "box", Tags: driver.Tags{Owner: "o", ID: "i"}, Resources: r})
	if err != nil {
		t.Fatal(err)
	}
	return d, h
}

// run runs the sandbox's one exec.
func run(t testing.TB, d driver.Driver, h driver.Handle, argv ...string) (stdout, stderr string, exit driver.Exit) {
	t.Helper()
	s := driver.ExecSpec{ID: "main", Argv: argv, Env: []string{"NAME=world", "EMPTY="}}
	err := d.Exec(t.Context(), h, s, func(e driver.ExecEvent) error {
		switch {
		case e.Exit != nil:
			exit = *e.Exit
		case e.Stream == driver.Stdout:
			stdout += string(e.Data)
		default:
			stderr += string(e.Data)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%q: %v", argv, err)
	}
	return stdout, stderr, exit
}

func TestShellSubset(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		script, stdout, stderr string
		code                   int
	}{
		{`echo hello`, "hello\n", "", 0},
		{`echo "hello $NAME" '$NAME' "${NAME}!" $EMPTY.`, "hello world $NAME world! .\n", "", 0},
		{"echo a; echo b\necho c", "a\nb\nc\n", "", 0},
		{`exit 7`, "", "", 7},
		{`false && echo no; true && echo yes`, "yes\n", "", 0},
		{`false || echo or; true || echo no`, "or\n", "", 0},
		{`false; exit`, "", "", 1},
		{`echo to-stderr >&2`, "", "to-stderr\n", 0},
		{`echo one > f; echo two >> f; cat f`, "one\ntwo\n", "", 0},
		{`echo one > f; echo two >f; cat f | cat`, "two\n", "", 0},
		{`cd /tmp && pwd; cd /nowhere || echo stays; pwd`, "/tmp\nstays\n/tmp\n", "sh: file does not exist\n", 0},
		{`no-such-thing`, "", "no-such-thing: command not found\n", 127},
		{`echo a\ b # a comment`, "a b\n", "", 0},
		{`set -e; seq 3`, "1\n2\n3\n", "", 0},
		{`echo "quo\"ted"`, "quo\"ted\n", "", 0},
		{`echo x | tee a b; cat a b`, "x\nx\nx\n", "", 0},
		{`rm -f no-such; echo $?x`, "$?x\n", "", 0},
		{`for i in 1; do echo $i; done & `, "", "sh: & is not known here\n", 2},
		{`echo 'open`, "", "sh: a ' is not closed\n", 2},
	} {
		d, h := sandbox(t, step.Resources{})
		out, errs, exit := run(t, d, h, "sh", "-c", c.script)
		if out != c.stdout || errs != c.stderr || exit.Code != c.code || exit.Cause != step.CauseExit {
			t.Errorf("%s\n got %q, %q, %+v\nwant %q, %q, exit %d", c.script, out, errs, exit, c.stdout, c.stderr, c.code)
		}
	}
	d, h := sandbox(t, step.Resources{})
	if _, _, exit := run(t, d, h, "bash", "-euc", "kill -9 $$"); exit.Cause != step.CauseSignal || exit.Signal != "SIGKILL" {
		t.Errorf("kill -9 $$: %+v", exit)
	}
}

func TestCaps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		caps  step.Resources
		argv  []string
		cause step.Cause
	}{
		{"memory", step.Resources{MemoryMB: 10}, []string{"mem", "alloc", "11"}, step.CauseOOM},
		{"memory kept", step.Resources{MemoryMB: 10}, []string{"mem", "alloc", "9"}, step.CauseExit},
		{"pids", step.Resources{Pids: 5}, []string{"mem", "fork", "5"}, step.CausePids},
		{"pids kept", step.Resources{Pids: 5}, []string{"mem", "fork", "4"}, step.CauseExit},
		{"disk", step.Resources{DiskMB: 3}, []string{"mem", "fill", "f", "4"}, step.CauseDisk},
		{"disk kept", step.Resources{DiskMB: 3}, []string{"mem", "fill", "f", "3"}, step.CauseExit},
	} {
		d, h := sandbox(t, c.caps)
		if _, errs, exit := run(t, d, h, c.argv...); exit.Cause != c.cause {
			t.Errorf("%s: %+v, %q", c.name, exit, errs)
		}
	}
	d, h := sandbox(t, step.Resources{CPU: 0.5})
	_, _, exit := run(t, d, h, "mem", "spin", "0.1")
	if exit.Usage.CPUUsec != 100_000 || exit.Usage.WallMS < 200 {
		t.Errorf("0.1 s of half a processor: %+v", exit.Usage)
	}
}

// BenchmarkSteps is a whole step without any transport: the floor of every
// measurement of the control plane.
func BenchmarkSteps(b *testing.B) {
	w := memdriver.NewWorld()
	defer w.Close()
	d := memdriver.New(w, memdriver.Options{})
	n := atomic.Int64{}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			h, err := d.Create(context.Background(), driver.Spec{ID: fmt.Sprint("box-", n.Add(1)), Tags: driver.Tags{Owner: "o", ID: "i"}})
			if err != nil {
				b.Error(err)
				return
			}
			if err := d.Exec(context.Background(), h, driver.ExecSpec{ID: "main", Argv: []string{"echo", "x"}}, func(driver.ExecEvent) error { return nil }); err != nil {
				b.Error(err)
			}
			if err := d.Destroy(context.Background(), h); err != nil {
				b.Error(err)
			}
		}
	})
	if w.Len() != 0 {
		b.Errorf("%d sandboxes are left", w.Len())
	}
}
