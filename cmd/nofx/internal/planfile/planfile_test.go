package planfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/cmd/nofx/internal/planfile"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func TestRead(t *testing.T) {
	t.Parallel()
	want := wire.SubmitRun{Plan: wire.Plan{Goal: "two steps", Steps: []wire.PlanStep{
		{Name: "a", Tool: "bash", Inputs: []byte(`{"command":"make","timeout":1000}`)},
		{Name: "b", Tool: "test:echo", Inputs: []byte(`{"n":3}`), DependsOn: []string{"a"}, Resources: &step.Resources{CPU: 0.5}},
	}}}
	whole := want
	whole.ProjectID = "p1"
	const json = `{"goal":"two steps","steps":[
		{"name":"a","tool":"bash","inputs":{"command":"make","timeout":1000}},
		{"name":"b","tool":"test:echo","inputs":{"n":3},"depends_on":["a"],"resources":{"cpu":0.5}}]}`
	const yaml = `
goal: two steps
steps:
  - name: a
    tool: bash
    inputs: {command: make, timeout: 1000}
  - {name: b, tool: "test:echo", inputs: {n: 3}, depends_on: [a], resources: {cpu: 0.5}}
`
	for name, tc := range map[string]struct {
		body string
		want wire.SubmitRun
	}{
		"plan.json":   {json, want},
		"plan.yaml":   {yaml, want},
		"whole.json":  {`{"plan":` + json + `,"projectId":"p1"}`, whole},
		"json.yaml":   {json, want},
		"noextension": {yaml, want},
		"mark.json":   {"\ufeff" + json, want},
		"mark.yaml":   {"\ufeff" + yaml, want},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := planfile.Read(write(t, name, tc.body), nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	got, err := planfile.Read("-", strings.NewReader(yaml))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stdin: %s", diff)
	}
}

// What looks like a date or a word of older YAML is the text that it is in
// JSON, and anchors unfold.
func TestYAMLScalars(t *testing.T) {
	t.Parallel()
	got, err := planfile.Read(write(t, "p.yaml", `
goal: x
steps:
  - &base {name: a, tool: test:echo, inputs: &in {day: 2024-01-02, at: 2024-01-02T03:04:05Z, yes: no, n: 1.5}}
  - {<<: *base, name: b, inputs: {<<: *in, n: 2}}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		`{"at":"2024-01-02T03:04:05Z","day":"2024-01-02","n":1.5,"yes":"no"}`,
		`{"at":"2024-01-02T03:04:05Z","day":"2024-01-02","n":2,"yes":"no"}`,
	} {
		if in := string(got.Plan.Steps[i].Inputs); in != want {
			t.Errorf("step %d: %s, want %s", i, in, want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ file, body, want string }{
		"unknown field":    {"p.json", `{"goal":"x","steps":[],"colour":1}`, `unknown field "colour"`},
		"misspelt in step": {"p.yaml", "goal: x\nsteps: [{name: a, tool: bash, dependson: [b]}]", `unknown field "dependson"`},
		"syntax":           {"p.json", "{\n\"goal\":\n}", "line 3"},
		"wrong type":       {"p.json", `{"goal":"x","steps":{}}`, "steps"},
		"yaml syntax":      {"p.yaml", "goal: [", "line 1"},
		"two documents":    {"p.yaml", "goal: x\n---\ngoal: y\n", "more than one document"},
		"empty":            {"p.yaml", "", "empty"},
		"trailing":         {"p.json", `{"goal":"x","steps":[]} {}`, "after top-level value"},
		"bad key":          {"p.yaml", "goal: x\nsteps: [{name: a, tool: bash, inputs: {1: 2}}]", "line 2: the key 1 is not text"},
		"no number":        {"p.yaml", "goal: x\nsteps: [{name: a, tool: bash, inputs: {a: .nan}}]", "line 2: .nan is no number in JSON"},
		"bytes":            {"p.yaml", "goal: x\nsteps: [{name: a, tool: bash, inputs: {a: !!binary /w==}}]", "line 2: bytes have no form in JSON"},
		"twice in yaml":    {"p.yaml", "goal: x\ngoal: y\n", "already defined"},
		"twice in json":    {"p.json", "{\"goal\":\"x\",\n\"steps\":[{\"tool\":\"a\",\"inputs\":{\"tool\":[1]},\"tool\":\"b\"}]}", `line 2: plan.steps[0].tool: is there twice`},
		"in another case":  {"p.yaml", "goal: x\nsteps: [{tool: a, Tool: b}]\n", `plan.steps[0].Tool: is not a known field: it is written tool`},
		"case, submission": {"p.json", `{"plan":{"Goal":"x"}}`, `line 1: submission.plan.Goal: is not a known field: it is written goal`},
		"json not UTF-8":   {"p.json", "{\"goal\":\"\xff\",\"steps\":[]}", "not UTF-8"},
		"number for text":  {"p.json", "{\"goal\":\"x\",\n\"steps\":[{\"name\":5}]}", "line 2: steps.name: number where text is needed"},
		"too many digits":  {"p.yaml", "goal: x\nsteps: [{name: a, tool: bash, inputs: {a: 12345678901234567890123}}]", "line 2: 12345678901234567890123 is too large for a whole number: put it in quotes"},
		"exponent":         {"p.json", "{\"goal\":\"x\",\n\"steps\":[{\"timeout\":1e3}]}", "line 2: steps.timeout: number 1e3 where a whole number, in digits alone, is needed"},
		"in yaml":          {"p.yaml", "goal: 5\nsteps: []\n", "p.yaml: goal: number where text is needed"},
		"list for object":  {"p.yaml", "[1]", "array where an object is needed"},
		"cycle":            {"p.yaml", "goal: a\nsteps: &s [{name: a, tool: bash, inputs: {x: *s}}]\n", "contains itself"},
		"too large":        {"p.json", `{"goal":"` + strings.Repeat("x", planfile.MaxBytes) + `"}`, "larger than"},
		"alias bomb":       {"p.yaml", bomb(), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := planfile.Read(write(t, tc.file, tc.body), nil)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q does not say %q", err, tc.want)
			}
			if k := step.KindOf(err); k != step.KindInvalid && k != step.KindTooLarge {
				t.Errorf("kind %q", k)
			}
		})
	}
}

// bomb is a small YAML that would unfold to billions of nodes.
func bomb() string {
	var b strings.Builder
	b.WriteString("aa: &aa [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		prev, name := "*a"+itoa(i-1), "a"+itoa(i)
		b.WriteString(name + ": &" + name + " [" + strings.TrimSuffix(strings.Repeat(prev+",", 9), ",") + "]\n")
	}
	return b.String()
}

func itoa(i int) string { return string(rune('a' + i)) }

func write(t *testing.T, name, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
