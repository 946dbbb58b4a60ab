package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// prefix is one that no other test has at the moment.
func prefix(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes control groups: run it as root")
	}
	return fmt.Sprintf("nofxtest-%s-%d", strings.ToLower(t.Name()), os.Getpid())
}

func group(t *testing.T, caps step.Resources) *Group {
	t.Helper()
	r := Open(prefix(t))
	if diff := cmp.Diff(driver.Capabilities{driver.CapCPU, driver.CapMemory, driver.CapPids}, r.Capabilities()); diff != "" {
		t.Fatalf("%v: %s", r.err, diff)
	}
	g, err := r.Make(caps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		for _, dir := range r.paths(g.name) {
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
		}
	})
	return g
}

// run runs a script in the group and gives how it ended.
func run(t *testing.T, g *Group, script string) driver.Exit {
	t.Helper()
	e := g.Enter()
	argv := e.Argv("/bin/sh", "-c", script)
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	x := driver.Exit{Cause: step.CauseExit, Code: cmd.ProcessState.ExitCode()}
	if st := cmd.ProcessState.Sys().(syscall.WaitStatus); st.Signaled() {
		x.Cause, x.Signal = step.CauseSignal, st.Signal().String()
	}
	e.End(&x)
	return x
}

func TestCaps(t *testing.T) {
	t.Parallel()
	g := group(t, step.Resources{CPU: 0.2, MemoryMB: 32, Pids: 16})
	for _, tc := range []struct {
		script string
		cause  step.Cause
		code   int
	}{
		{"exit 0", step.CauseExit, 0},
		{"exit 7", step.CauseExit, 7},
		{"head -c 100000000 /dev/zero | tail | wc -c", step.CauseOOM, -1},
		{"exit 3", step.CauseExit, 3}, // what came before is not blamed on it
		{"set -e; for i in $(seq 40); do sleep 1 & done", step.CausePids, -1},
		{"exit 4", step.CauseExit, 4},
	} {
		x := run(t, g, tc.script)
		if x.Cause != tc.cause || tc.code >= 0 && x.Code != tc.code {
			t.Errorf("%s: %+v", tc.script, x)
		}
		if x.Usage.CPUUsec == 0 || x.Usage.MemoryPeakBytes == 0 || x.Usage.MemoryPeakBytes > 32<<20 {
			t.Errorf("%s: usage %+v", tc.script, x.Usage)
		}
	}
	begin := time.Now()
	x := run(t, g, "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
	if used, most := time.Duration(x.Usage.CPUUsec)*time.Microsecond, time.Since(begin)*3/10+50*time.Millisecond; x.Code != 0 || used > most {
		t.Errorf("a fifth of a processor: %v used in %v: %+v", used, time.Since(begin), x)
	}
}

// Without caps a group only counts.
func TestNoCaps(t *testing.T) {
	t.Parallel()
	g := group(t, step.Resources{})
	if x := run(t, g, "head -c 100000000 /dev/zero | tail | wc -c"); x.Cause != step.CauseExit || x.Code != 0 || x.Usage.MemoryPeakBytes < 90<<20 {
		t.Errorf("%+v", x)
	}
}

// What a process left is removed by the next one; what lives is not.
func TestSweep(t *testing.T) {
	t.Parallel()
	p := prefix(t)
	r := Open(p)
	cmd := exec.CommandContext(t.Context(), "true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	left := r.paths(fmt.Sprintf("%s-%d-1", p, cmd.Process.Pid))
	for _, dir := range left {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mine, err := r.Make(step.Resources{})
	if err != nil {
		t.Fatal(err)
	}
	Open(p)
	for _, dir := range left {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", dir, err)
			_ = os.Remove(dir)
		}
	}
	for _, dir := range r.paths(mine.name) {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	if err := mine.Remove(); err != nil {
		t.Error(err)
	}
}

func TestNoHierarchies(t *testing.T) {
	t.Parallel()
	r := open(t.TempDir(), "x")
	if _, err := r.Make(step.Resources{Pids: 1}); !step.Is(err, step.KindUnsupported) || len(r.Capabilities()) != 0 {
		t.Errorf("%v, %v", r.Capabilities(), err)
	}
	g, err := r.Make(step.Resources{}) // who asks for no cap needs no group
	if err != nil {
		t.Fatal(err)
	}
	if x := run(t, g, "exit 7"); x.Code != 7 || x.Cause != step.CauseExit {
		t.Errorf("%+v", x)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
}

// The files of v2, on whatever the host has.
func TestV2(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := &Root{prefix: "x", v2: true, dirs: map[string]string{}}
	for _, c := range controllers {
		r.dirs[c] = dir
	}
	g := &Group{root: r, name: "g"}
	if paths := r.paths("g"); len(paths) != 1 {
		t.Errorf("%q", paths)
	}
	if err := os.Mkdir(filepath.Join(dir, "g"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cpu.max": "", "memory.max": "", "memory.oom.group": "", "memory.swap.max": "", "pids.max": "",
		"cpu.stat": "usage_usec 12\nuser_usec 7\n", "memory.events": "oom 4\noom_kill 2\n", "pids.events": "max 3\n",
	} {
		if err := os.WriteFile(g.file("cpu", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.limit(step.Resources{CPU: 0.5, MemoryMB: 2, Pids: 9}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"cpu.max": "50000 100000", "memory.max": "2097152", "memory.oom.group": "1", "memory.swap.max": "0", "pids.max": "9",
	} {
		if got, _ := os.ReadFile(g.file("cpu", name)); string(got) != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := g.counts(); got != (counts{2, 3, 12}) {
		t.Errorf("%+v", got)
	}
}
