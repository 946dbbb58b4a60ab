package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

func TestExec(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, "NOFX_TEST_CANARY=canary-of-the-host")

	t.Run("exit codes and streams", func(t *testing.T) {
		for _, tc := range []struct {
			args   []string
			code   int
			stdout string
			stderr string // "" = anything
		}{
			{[]string{"--", "echo", "a  b", "$HOME"}, 0, "a  b $HOME\n", ""},
			{[]string{"--", "sh", "-c", "echo out; echo err >&2; exit 7"}, 7, "out\n", "err\n"},
			{[]string{"--tool", "bash", "--", "echo $((6*7))"}, 0, "42\n", ""},
			{[]string{"--tool", "bash", "--", "echo", "a  b", "$HOME"}, 0, "a  b $HOME\n", ""},
			{[]string{"--tool", "python", "--", "import sys; print(1 < 2); sys.exit(3)"}, 3, "True\n", ""},
			{[]string{"--tool", "node", "--", "console.log([1,2].map(x => x*2).join()); process.exit(4)"}, 4, "2,4\n", ""},
			{[]string{"--env", "A=x y", "--", "printenv", "A"}, 0, "x y\n", ""},
			{[]string{"--timeout", "1s", "--", "sleep", "600"}, 124, "", "ended by timeout"},
			{[]string{"--memory", "64Mi", "--", "sh", "-c", "head -c 200000000 /dev/zero | tail"}, 125, "", "ended by oom"},
			{[]string{"--", "sh", "-c", "kill -SEGV $$"}, 125, "", "ended by signal SIGSEGV"},
			{[]string{"--disk", "16Mi", "--", "sh", "-c", "head -c 4000000 /dev/zero >f; wc -c <f"}, 0, "4000000\n", ""},
			{[]string{"--disk", "16Mi", "--", "sh", "-c", "head -c 40000000 /dev/zero >f"}, 125, "", "ended by disk"},
			{[]string{"--disk", "1Mi", "--", "true"}, 125, "", "disk_mb"},
			{[]string{"--network", "some", "--", "true"}, 125, "", "none, allow or open"},
			{[]string{"--driver", "nowhere", "--", "true"}, 125, "", "nowhere"},
		} {
			r := s.Nofx("", append([]string{"exec"}, tc.args...)...)
			if r.Code != tc.code || r.Stdout != tc.stdout || !strings.Contains(r.Stderr, tc.stderr) {
				t.Errorf("%q: got %d, stdout %q, stderr %q; want %d, %q, %q", tc.args, r.Code, r.Stdout, r.Stderr, tc.code, tc.stdout, tc.stderr)
			}
		}
	})

	t.Run("the verdict as JSON", func(t *testing.T) {
		r := s.Nofx("", "exec", "--json", "--cpu", "0.5", "--pids", "64", "--", "sh", "-c", "head -c 20000000 /dev/zero | tail -c 15000000 | wc -c; exit 5")
		lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
		var v struct {
			step.Verdict
			RunID string `json:"run_id"`
		}
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &v); err != nil {
			t.Fatalf("%v in %q", err, r.Stderr)
		}
		if r.Code != 5 || v.Cause != step.CauseExit || *v.ExitCode != 5 || v.Attested != step.AttestedKernel || v.RunID == "" {
			t.Errorf("code %d, %+v", r.Code, v)
		}
		if v.Usage.MemoryPeakBytes < 4<<20 || v.Usage.CPUUsec == 0 || v.Usage.WallMS == 0 {
			t.Errorf("usage %+v", v.Usage)
		}
	})

	t.Run("files go in, artifacts come out", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "in.bin"), []byte("a\x00b\xff"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := s.Nofx(dir, "exec", "--file", "in.bin:data/in.bin", "--artifact", "out/copy.bin", "--", "sh", "-c", "mkdir out && cat data/in.bin data/in.bin > out/copy.bin")
		if r.Code != 0 {
			t.Fatalf("%+v", r)
		}
		got, err := os.ReadFile(filepath.Join(dir, "copy.bin"))
		if err != nil || string(got) != "a\x00b\xffa\x00b\xff" {
			t.Errorf("artifact %q, %v", got, err)
		}
		sum := sha256.Sum256(got)
		if !strings.Contains(r.Stderr, hex.EncodeToString(sum[:])) {
			t.Errorf("the hash is not told: %q", r.Stderr)
		}
	})

	t.Run("an output flood is cut and marked", func(t *testing.T) {
		r := s.Nofx("", "exec", "--output", "64Ki", "--", "sh", "-c", "yes | head -c 1000000")
		if r.Code != 0 || len(r.Stdout) < 60<<10 || len(r.Stdout) > 70<<10 {
			t.Errorf("code %d, %d bytes kept", r.Code, len(r.Stdout))
		}
		if !strings.Contains(r.Stderr, "output kept 64.0KiB of 976.6KiB") {
			t.Errorf("stderr %q", r.Stderr)
		}
	})

	t.Run("binary output comes as it was written", func(t *testing.T) {
		r := s.Nofx("", "exec", "--tool", "python", "--", "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)")
		want := strings.Repeat(string(bytes256()), 1000)
		if r.Code != 0 || r.Stdout != want {
			t.Errorf("code %d, %d bytes, want %d", r.Code, len(r.Stdout), len(want))
		}
	})

	t.Run("the sandbox sees nothing of the host", func(t *testing.T) {
		r := s.Nofx("", "exec", "--", "sh", "-c", "id -u; env; hostname; cat /proc/*/environ 2>/dev/null; ls /root /home/* 2>&1; exit 0")
		host, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		key := s.ClientEnv()["NOFX_API_KEY"]
		for _, secret := range []string{"canary-of-the-host", key, s.Dir} {
			if strings.Contains(r.Stdout+r.Stderr, secret) {
				t.Errorf("the step sees %q", secret)
			}
		}
		if r.Code != 0 || strings.HasPrefix(r.Stdout, "0\n") || strings.Contains(r.Stdout, "\n"+host+"\n") {
			t.Errorf("code %d: %s", r.Code, r.Stdout)
		}
	})

	t.Run("the inventory", func(t *testing.T) {
		for cmd, want := range map[string]string{"workers": `"status": "live"`, "drivers": `"name": "local"`, "handlers": `"tool": "test:echo"`} {
			if r := s.Nofx("", cmd, "--json"); r.Code != 0 || !strings.Contains(r.Stdout, want) {
				t.Errorf("%s: %+v", cmd, r)
			}
		}
	})
}

func bytes256() []byte {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return all
}

// count is a step that writes numbered lines, one each 20 ms, and what it has
// written in the end.
func count(name string, lines int) (script, want string) {
	var b strings.Builder
	for i := 1; i <= lines; i++ {
		fmt.Fprintf(&b, "%s line %d\n", name, i)
	}
	return fmt.Sprintf("for i in $(seq 1 %d); do echo %s line $i; sleep 0.02; done", lines, name), b.String()
}

// One limit holds for all steps that share a workspace, and another for a step
// that has its own; nothing of either is left.
func TestDisk(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	write := func(name string, mb int, more string) string {
		return fmt.Sprintf(`{"name": %q, "tool": "bash", "inputs": {"command": "head -c %d000000 /dev/zero >%s"}%s}`, name, mb, name, more)
	}
	plan := filepath.Join(t.TempDir(), "plan.json")
	text := `{"goal": "disk", "steps": [` + strings.Join([]string{
		write("first", 10, `, "resources": {"disk_mb": 16}`),
		write("second", 10, `, "depends_on": ["first"]`),
		write("own", 20, `, "workspace": "step", "resources": {"disk_mb": 32}`),
		write("own-full", 20, `, "workspace": "step", "resources": {"disk_mb": 16}`),
	}, ",") + `]}`
	if err := os.WriteFile(plan, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := s.Nofx("", "run", "-f", plan, "--follow", "--json")
	if r.Code != 1 {
		t.Fatalf("%+v", r)
	}
	runs, err := s.API().Runs(t.Context(), 1, "")
	if err != nil || len(runs.Runs) != 1 {
		t.Fatal(runs, err)
	}
	d, err := s.API().Run(t.Context(), runs.Runs[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"first": "exit 0", "second": "disk", "own": "exit 0", "own-full": "disk"}
	for _, st := range d.Steps {
		if st.Verdict == nil || st.Verdict.String() != want[st.Name] || st.Verdict.Usage.DiskBytes < 10_000_000 {
			t.Errorf("%s: %+v", st.Name, st.Verdict)
		}
	}
}
