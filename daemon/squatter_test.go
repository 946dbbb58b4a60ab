package daemon

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"os/exec"
	"syscall"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

// A user without rights who takes the name of the hold keeps no daemon away; the
// control is root, who does.
func TestSquatterOfTheHold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		who  string
		uid  uint32
		held bool
	}{{"nobody", 65534, false}, {"root", 0, true}} {
		t.Run(c.who, func(t *testing.T) {
			t.Parallel()
			root := "nofxtest_squat_" + c.who
			sum := sha256.Sum256([]byte(root))
			cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", `import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind("\0nofx-groups-" + sys.argv[1]); s.listen(); print("on", flush=True); sys.stdin.read()`, hex.EncodeToString(sum[:16]))
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
			cmd.Dir = "/"
			in, err1 := cmd.StdinPipe()
			out, err2 := cmd.StdoutPipe()
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = in.Close()
				_ = cmd.Wait()
			})
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "on\n" {
				t.Fatal(line, err)
			}
			hold, err := holdGroups(root)
			if c.held {
				if !step.Is(err, step.KindConflict) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := hold.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
