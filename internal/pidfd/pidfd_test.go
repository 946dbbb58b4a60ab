package pidfd

import (
	"errors"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_, _ = cmd.Process.Wait()
	})
	return cmd
}

func TestKill(t *testing.T) {
	t.Parallel()
	yes, no := func() (bool, error) { return true, nil }, func() (bool, error) { return false, nil }
	broken := errors.New("cannot say")
	cmd := sleeper(t)
	pid := cmd.Process.Pid
	for what, err := range map[string]error{"kill": Kill(pid, no), "end": End(pid, time.Second, no)} {
		if err != nil {
			t.Errorf("%s of another: %v", what, err)
		}
	}
	if err := Kill(pid, func() (bool, error) { return true, broken }); !errors.Is(err, broken) {
		t.Errorf("when nobody can say: %v", err)
	}
	if err := unix.Kill(pid, 0); err != nil {
		t.Fatalf("it was killed: %v", err)
	}
	if err := End(pid, 10*time.Second, yes); err != nil {
		t.Errorf("end: %v", err)
	}
	if err := Kill(pid, yes); err != nil { // a zombie
		t.Errorf("once more: %v", err)
	}
	if _, err := cmd.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Kill(pid, yes), End(pid, time.Second, yes)); err != nil {
		t.Errorf("of nobody: %v", err)
	}
	cmd = sleeper(t)
	if err := Kill(cmd.Process.Pid, yes); err != nil {
		t.Errorf("kill: %v", err)
	}
	if st, err := cmd.Process.Wait(); err != nil || st.String() != "signal: killed" {
		t.Errorf("%v, %v", st, err)
	}
}
