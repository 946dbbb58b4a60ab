package hostile

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// play is a row's place: a system, a level, and a file of the host's that
// nothing may touch.
type play struct {
	t      *testing.T
	s      *harness.System
	level  level
	probe  string
	images map[string]string // by what is odd about them
	canary canary
}

// canary is a file in a folder that everybody may write to. The host's root owns
// both.
type canary struct{ dir, file string }

const canaryText = "canary-of-a-file"

func newCanary(t *testing.T) canary {
	t.Helper()
	dir, err := os.MkdirTemp("", "nofx-canary-") // every folder above it can be passed
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := canary{dir: dir, file: filepath.Join(dir, "file")}
	if err := os.WriteFile(c.file, []byte(canaryText), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // so that whoever follows a link there leaves a trace
		t.Fatal(err)
	}
	return c
}

// touched tells what was done to it, "" = nothing.
func (c canary) touched() string {
	entries, err := os.ReadDir(c.dir)
	if err != nil || len(entries) != 1 {
		return fmt.Sprintf("the canary's folder has %d entries, %v: %v", len(entries), err, entries)
	}
	info, err := os.Lstat(c.file)
	if err != nil {
		return err.Error()
	}
	uid, gid := owner(info)
	body, err := os.ReadFile(c.file)
	if err != nil || string(body) != canaryText || info.Mode() != 0o600 || uid != 0 || gid != 0 {
		return fmt.Sprintf("the canary is %q, %v of %d:%d, %v", body, info.Mode(), uid, gid, err)
	}
	return ""
}

// step is a step on the row's level that runs a script.
func (p *play) step(name, script string, files []map[string]any, after ...string) wire.PlanStep {
	in := map[string]any{"argv": []string{"/bin/sh", "-c", script}, "timeout": 60_000}
	if files != nil {
		in["files"] = files
	}
	inputs, err := json.Marshal(in)
	if err != nil {
		p.t.Fatal(err)
	}
	return wire.PlanStep{Name: name, Tool: "exec", Inputs: inputs, Driver: p.level.driver, Isolation: p.level.isolation, DependsOn: after}
}

// submit gives the run's id, or what the command says. All goes through the
// command, which is where the API can be reached from.
func (p *play) submit(steps ...wire.PlanStep) (string, error) {
	dir := p.t.TempDir()
	raw, err := json.Marshal(wire.SubmitRun{Plan: wire.Plan{Goal: "hostile", Steps: steps}})
	if err != nil {
		p.t.Fatal(err)
	}
	plan := filepath.Join(dir, "plan.json")
	if err := os.WriteFile(plan, raw, 0o600); err != nil {
		p.t.Fatal(err)
	}
	res := p.s.Nofx(dir, "run", "-f", plan)
	if res.Code != 0 {
		return "", fmt.Errorf("status %d: %.300s", res.Code, res.Stderr)
	}
	return strings.TrimSpace(res.Stdout), nil
}

// wait waits for the run's end.
func (p *play) wait(id string) (d wire.RunDetail) {
	p.s.Eventually("run "+id+" ends", func() bool {
		res := p.s.Nofx("", "runs", "get", id, "--json")
		return res.Code == 0 && json.Unmarshal([]byte(res.Stdout), &d) == nil && d.Run.Status.Terminal()
	})
	return d
}

// ran submits a step, waits for its end, and gives its verdict and what it wrote.
func (p *play) ran(s wire.PlanStep) (d wire.RunDetail, out string, err error) {
	id, err := p.submit(s)
	if err != nil {
		return d, "", err
	}
	d = p.wait(id)
	if len(d.Steps) != 1 || d.Steps[0].Verdict == nil {
		return d, "", fmt.Errorf("run %s has no verdict", id)
	}
	return d, p.s.Nofx("", "runs", "logs", id).Stdout, nil
}

// refusedFile tells what is wrong when a plan with a file of that name is taken,
// or refused without the field's name.
func (p *play) refusedFile(name string) string {
	_, err := p.submit(p.step("a", "exit 0", []map[string]any{{"path": name, "content_base64": []byte("x")}}))
	if err == nil || !strings.Contains(err.Error(), "files") {
		return fmt.Sprintf("a file %.60q: %v", name, err)
	}
	return ""
}

// gone waits for the run's end and for the end of its workspace.
func (p *play) gone(id string) (seen, wrong string) {
	d := p.wait(id)
	seen = string(d.Run.Status)
	if d.Run.Status != step.RunSucceeded {
		return seen, "the run has " + seen + verdicts(d)
	}
	p.s.Eventually("the workspace of "+id+" is removed", func() bool {
		_, err := os.Lstat(filepath.Join(p.s.Workspaces(), id))
		return os.IsNotExist(err)
	})
	return seen, ""
}

// verdicts are those of its steps.
func verdicts(d wire.RunDetail) string {
	var all []string
	for _, s := range d.Steps {
		if s.Verdict != nil {
			all = append(all, fmt.Sprintf("%s: %s %s", s.Name, s.Verdict, s.Verdict.Message))
		}
	}
	return " " + strings.Join(all, "; ")
}
