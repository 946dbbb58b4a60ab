package suite

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The shell programs must do what they say, or a driver's failure would be
// theirs. They are tried here without any driver.
func TestShellPrograms(t *testing.T) {
	t.Parallel()
	p := Shell()
	command := func(argv []string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Dir = t.TempDir()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return cmd
	}
	run := func(argv []string, stdin string) (string, string, *os.ProcessState) {
		cmd := command(argv)
		var out, err bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &err
		if rerr := cmd.Run(); rerr != nil && !errors.As(rerr, new(*exec.ExitError)) {
			t.Errorf("%q: %v", argv, rerr)
		}
		return out.String(), err.String(), cmd.ProcessState
	}
	for _, code := range []int{0, 7, 255} {
		if _, _, st := run(p.Exit(code), ""); st.ExitCode() != code {
			t.Errorf("Exit(%d): %v", code, st)
		}
	}
	for name, sig := range map[string]syscall.Signal{"SIGSEGV": syscall.SIGSEGV, "SIGKILL": syscall.SIGKILL} {
		if _, _, st := run(p.Die(name), ""); st.Sys().(syscall.WaitStatus).Signal() != sig {
			t.Errorf("Die(%s): %v", name, st)
		}
	}
	if out, err, _ := run(p.Print("a\n%s b", "\\n c"), ""); out != "a\n%s b" || err != "\\n c" {
		t.Errorf("Print: %q, %q", out, err)
	}
	if out, _, _ := run(p.Cat, "in"); out != "in" {
		t.Errorf("Cat: %q", out)
	}
	file := filepath.Join(t.TempDir(), "file")
	run(p.Append(file, "x"), "")
	run(p.Append(file, "y"), "")
	if out, _, _ := run(p.Read(file), ""); out != "xy" {
		t.Errorf("Append and Read: %q", out)
	}
	if out, _, st := run(p.Wait(10*time.Millisecond), ""); out != "ready\n" || st.ExitCode() != 0 {
		t.Errorf("Wait: %q, %v", out, st)
	}
	if out, _, _ := run(p.Count(12, time.Millisecond), ""); out != countLines(12) {
		t.Errorf("Count: %q", out)
	}
	if out, _, st := run(p.Flood(300_001), ""); out != string(FloodBytes(300_001)) || st.ExitCode() != 0 {
		t.Errorf("Flood: %d bytes, %v", len(out), st)
	}
	if out, _, st := run(p.Alloc(1), ""); strings.TrimSpace(out) != "1048576" || st.ExitCode() != 0 {
		t.Errorf("Alloc: %q, %v", out, st)
	}
	if _, err, st := run(p.Fork(3), ""); st.ExitCode() != 0 {
		t.Errorf("Fork: %q, %v", err, st)
	}
	run(p.Fill(file, 1), "")
	if st, err := os.Stat(file); err != nil || st.Size() != 1<<20 {
		t.Errorf("Fill: %v, %v", st, err)
	}

	var work, wall, cpu, write, read float64
	out, errs, st := run(p.Spin(200*time.Millisecond), "")
	if _, err := fmt.Sscan(out, &work, &wall, &cpu); err != nil || st.ExitCode() != 0 || work < 1 || wall < 190 || cpu < 10 || cpu > wall+20 {
		t.Errorf("Spin: %q, %q, %v", out, errs, st)
	}
	var device string
	out, errs, st = run(p.Transfer(file, 1), "")
	if _, err := fmt.Sscan(out, &device, &write, &read); err != nil || st.ExitCode() != 0 {
		t.Errorf("Transfer: %q, %q, %v", out, errs, st)
	}
	address, calls := greet(t)
	host, port, _ := net.SplitHostPort(address)
	if out, errs, st := run(p.Call(host, port), ""); out != greeting+"\n" || st.ExitCode() != 0 || calls.Load() != 1 {
		t.Errorf("Call: %q, %q, %v", out, errs, st)
	}
	if out, errs, st := run(p.Call(host, "1"), ""); out != "" || st.ExitCode() != 1 {
		t.Errorf("Call of nobody: %q, %q, %v", out, errs, st)
	}
	if out, _, _ := run(p.Terminal, ""); out != "none\n" {
		t.Errorf("Terminal: %q", out)
	}
	// script gives it one.
	tty := []string{"script", "-qec", "stty rows 33 cols 77; " + p.Terminal[2], "/dev/null"}
	if out, errs, st := run(tty, ""); strings.TrimSpace(out) != "33 77" {
		t.Errorf("Terminal, with one: %q, %q, %v", out, errs, st)
	}

	// Stubborn and Daemon do not end by themselves.
	stubborn := command(p.Stubborn)
	pipe, err := stubborn.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stubborn.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := pipe.Read(make([]byte, 6)); err != nil {
		t.Errorf("Stubborn: %v", err)
	}
	_ = syscall.Kill(-stubborn.Process.Pid, syscall.SIGTERM)
	_ = syscall.Kill(-stubborn.Process.Pid, syscall.SIGKILL)
	if _ = stubborn.Wait(); stubborn.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("Stubborn: %v", stubborn.ProcessState)
	}

	beat := filepath.Join(t.TempDir(), "beat")
	daemon := command(p.Daemon(beat))
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	fx := &fixture{Factory: Factory{Patience: 1}}
	size := func() int64 {
		st, err := os.Stat(beat)
		if err != nil {
			return 0
		}
		return st.Size()
	}
	fx.eventually(t, "the daemon is at work", func() bool { return size() > 1 })
	_ = syscall.Kill(-daemon.Process.Pid, syscall.SIGKILL)
	_ = daemon.Wait()
	before := size()
	fx.eventually(t, "the daemon outlives its group", func() bool { return size() > before })
	killBy(t, beat)
}

// killBy kills the processes that have arg among their arguments.
func killBy(t *testing.T, arg string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, d := range dirs {
		data, err := os.ReadFile(d)
		if err != nil || !slices.Contains(strings.Split(string(data), "\x00"), arg) {
			continue
		}
		st, err := os.ReadFile(filepath.Join(filepath.Dir(d), "stat"))
		if err != nil {
			continue
		}
		pid, _, _ := strings.Cut(string(st), " ")
		if n := atoi(pid); n > 1 && n != os.Getpid() {
			_ = syscall.Kill(n, syscall.SIGKILL)
			killed++
		}
	}
	if killed != 1 {
		t.Errorf("%d processes were left of the daemon, want 1", killed)
	}
}

func atoi(s string) int {
	n := 0
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	return n
}
