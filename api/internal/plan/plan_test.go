package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api/internal/handler"
	"github.com/nofx-run/nofx/api/internal/profile"
	"github.com/nofx-run/nofx/configs"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func shipped(t *testing.T) *handler.Set {
	t.Helper()
	dir, err := configs.Handlers()
	if err != nil {
		t.Fatal(err)
	}
	set, err := handler.Load(dir, profiles(t))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func profiles(t *testing.T) profile.Set {
	t.Helper()
	data, err := configs.Profiles()
	if err != nil {
		t.Fatal(err)
	}
	s, err := profile.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func presets(t *testing.T) Presets {
	t.Helper()
	data, err := configs.NetworkPresets()
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePresets(data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func compile(t *testing.T, steps string) ([]Step, error) {
	t.Helper()
	var p wire.Plan
	if err := json.Unmarshal([]byte(`{"goal":"g","steps":`+steps+`}`), &p); err != nil {
		t.Fatal(err)
	}
	return Compile(t.Context(), p, Catalog{Handlers: shipped(t), Drivers: none{}, Presets: presets(t), Profiles: profiles(t)})
}

// none is workers that offer no driver.
type none struct{}

func (none) Known(context.Context, bool) (map[string]Driver, error) { return nil, nil }

func TestRefused(t *testing.T) {
	t.Parallel()
	many := strings.Repeat(`{"name":"a","tool":"test:echo"},`, MaxSteps)
	for steps, where := range map[string]string{
		`[]`: "body.plan.steps",
		`[` + many + `{"name":"z","tool":"bash"}]`:                                                                "body.plan.steps",
		`[{"name":"a","tool":"nosuch"}]`:                                                                          "body.plan.steps[0].tool",
		`[{"name":"","tool":"test:echo"}]`:                                                                        "body.plan.steps[0].name",
		`[{"name":"a\nb","tool":"test:echo"}]`:                                                                    "body.plan.steps[0].name",
		`[{"name":"a","tool":"test:echo","driver":"docker"}]`:                                                     "body.plan.steps[0].driver",
		`[{"name":"a","tool":"test:echo","inputs":{"_driver":"docker"}}]`:                                         "body.plan.steps[0].driver",
		`[{"name":"a","tool":"test:echo","inputs":{"_nosuch":1}}]`:                                                "body.plan.steps[0].inputs._nosuch",
		`[{"name":"a","tool":"test:echo","inputs":[]}]`:                                                           "body.plan.steps[0].inputs",
		`[{"name":"a","tool":"test:echo","inputs":null}]`:                                                         "body.plan.steps[0].inputs",
		`[{"name":"a","tool":"test:echo","inputs":{"_resources":{"ram":1}}}]`:                                     "body.plan.steps[0].inputs._resources",
		`[{"name":"a","tool":"test:echo","driver":"local","inputs":{"_driver":"e2b"}}]`:                           "body.plan.steps[0].inputs._driver",
		`[{"name":"a","tool":"test:echo","depends_on":["b"]}]`:                                                    "body.plan.steps[0].depends_on[0]",
		`[{"name":"a","tool":"test:echo","inputs":{"_dependsOn":["b"]}}]`:                                         "body.plan.steps[0].depends_on[0]",
		`[{"name":"a","tool":"test:echo","depends_on":["a"]}]`:                                                    "body.plan.steps[0].depends_on[0]",
		`[{"name":"a","tool":"test:echo","depends_on":["b"]},{"name":"b","tool":"test:echo","depends_on":["a"]}]`: "body.plan.steps[0].depends_on",
		`[{"name":"a","tool":"test:echo"},{"name":"a","tool":"test:echo"}]`:                                       "body.plan.steps[1].name",
		`[{"name":"a","tool":"bash","inputs":{"command":"ls","cwd":"../../etc"}}]`:                                "body.plan.steps[0].inputs.cwd",
		`[{"name":"a","tool":"bash","inputs":{"command":"ls","cwd":"/etc"}}]`:                                     "body.plan.steps[0].inputs.cwd",
		`[{"name":"a","tool":"bash","inputs":{"command":"ls","cwd":"/workspace/../etc"}}]`:                        "body.plan.steps[0].inputs.cwd",
		`[{"name":"a","tool":"bash","inputs":{"command":"ls","cwd":"/workspace2"}}]`:                              "body.plan.steps[0].inputs.cwd",
		`[{"name":"a","tool":"bash","inputs":{}}]`:                                                                "body.plan.steps[0].inputs",
		`[{"name":"a","tool":"bash","inputs":{"command":"ls","colour":"red"}}]`:                                   "body.plan.steps[0].inputs",
		`[{"name":"a","tool":"bash","inputs":{"command":"l\u0000s"}}]`:                                            "body.plan.steps[0].inputs",
		`[{"name":"a","tool":"exec","inputs":{"argv":[]}}]`:                                                       "body.plan.steps[0].inputs.argv",
		`[{"name":"a","tool":"exec","inputs":{"argv":["x"],"files":[{"path":"../x"}]}}]`:                          "body.plan.steps[0].inputs.files",
		`[{"name":"a","tool":"exec","inputs":{"argv":["x"],"files":[{"path":"/workspace/x"}]}}]`:                  "body.plan.steps[0].inputs.files",
		`[{"name":"a","tool":"exec","inputs":{"argv":["x"],"files":[{"path":"x","content_base64":"!"}]}}]`:        "body.plan.steps[0].inputs.files",
		`[{"name":"a","tool":"exec","inputs":{"argv":["x"],"env":{"A=B":"c"}}}]`:                                  "body.plan.steps[0].inputs.env",
		`[{"name":"a","tool":"exec","env_allowed":["C"],"inputs":{"argv":["x"],"env":{"B":"c"}}}]`:                "body.plan.steps[0].inputs.env.B",
		`[{"name":"a","tool":"test:echo","profile":"huge"}]`:                                                      "body.plan.steps[0].profile",
		`[{"name":"a","tool":"test:echo","network":"some"}]`:                                                      "body.plan.steps[0].network",
		`[{"name":"a","tool":"test:echo","network":"allow"}]`:                                                     "body.plan.steps[0].network_allow",
		`[{"name":"a","tool":"test:echo","network_allow":["npm"]}]`:                                               "body.plan.steps[0].network_allow",
		`[{"name":"a","tool":"test:echo","network":"open","network_allow":["npm"]}]`:                              "body.plan.steps[0].network_allow",
		`[{"name":"a","tool":"test:echo","network":"allow","network_allow":["npm","nosuch"]}]`:                    "body.plan.steps[0].network_allow[1]",
		`[{"name":"a","tool":"test:echo","network":"allow","network_allow":["https://example.com"]}]`:             "body.plan.steps[0].network_allow[0]",
		`[{"name":"a","tool":"test:echo","resources":{"disk_mb":7}}]`:                                             "body.plan.steps[0].resources.disk_mb",
		`[{"name":"a","tool":"test:echo","resources":{"cpu":-1}}]`:                                                "body.plan.steps[0].resources.cpu",
		`[{"name":"a","tool":"test:echo","secrets_scope":["github"]}]`:                                            "body.plan.steps[0].secrets_scope",
		`[{"name":"a","tool":"test:echo","inputs":{"_policy":{"secrets_scope":["github"]}}}]`:                     "body.plan.steps[0].secrets_scope",
		`[{"name":"a","tool":"test:echo","retry":{"attempts":21}}]`:                                               "body.plan.steps[0].retry.attempts",
		`[{"name":"a","tool":"test:echo","timeout":-5}]`:                                                          "body.plan.steps[0].timeout",
		`[{"name":"a","tool":"test:echo","image":"busybox"}]`:                                                     "body.plan.steps[0].image",
		`[{"name":"a","tool":"test:echo","driver":"container","image":"a b"}]`:                                    "body.plan.steps[0].image",
		`[{"name":"a","tool":"test:echo","artifacts":["../x"]}]`:                                                  "body.plan.steps[0].artifacts[0]",
		`[{"name":"a","tool":"test:echo","workspace":"mine"}]`:                                                    "body.plan.steps[0].workspace",
		`[{"name":"a","tool":"test:echo","on_output_limit":"explode"}]`:                                           "body.plan.steps[0].on_output_limit",
	} {
		_, err := compile(t, steps)
		var e *step.Error
		if !step.Is(err, step.KindInvalid) {
			t.Errorf("%.150s: %v", steps, err)
			continue
		}
		errors.As(err, &e)
		if e.Fields[0].Location != where {
			t.Errorf("%.150s: refused at %s (%s), want %s", steps, e.Fields[0].Location, e.Fields[0].Message, where)
		}
	}
}

func TestCompiled(t *testing.T) {
	t.Parallel()
	got, err := compile(t, `[
		{"name":"a","tool":"bash","inputs":{"command":"npm ci && npm test","cwd":"/workspace","timeout":120000}},
		{"name":"b","tool":"exec","inputs":{"argv":["cat","x y"],"stdin":"in","cwd":"sub","env":{"A":"b"},
			"files":[{"path":"d/./x","content_base64":"aGk=","mode":493}],
			"_dependsOn":["a"],"_driver":"worker-container","_resources":{"cpu":2},"_policy":{"tools_allowed":["bash"]}}},
		{"name":"c","tool":"test:echo","inputs":{"z":1.0,"a":"<é>"},"timeout":5,"artifacts":["/workspace/out/x"],"retry":{"attempts":3}}]`)
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := got[0], got[1], got[2]
	if diff := cmp.Diff([]string{"/bin/bash", "-c", "npm ci && npm test"}, a.Command.Argv); diff != "" {
		t.Error(diff)
	}
	if a.Driver != "local" || a.TimeoutMS != 120000 || a.Resources.MemoryMB != 512 || a.Retry.Attempts != 1 || a.Denied != "" || a.Shown != "npm ci && npm test" {
		t.Errorf("%+v", a)
	}
	want := wire.Command{
		Argv: []string{"cat", "x y"}, Cwd: "/workspace/sub", Stdin: []byte("in"),
		Files: []wire.CommandFile{{Path: "d/x", Mode: 0o755, Data: []byte("hi")}},
		Env: map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/home/step", "USER": "step",
			"SHELL": "/bin/bash", "TMP": "/tmp", "TEMP": "/tmp", "PWD": "/workspace/sub", "NODE_ENV": "development", "TZ": "UTC",
			"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "A": "b"},
	}
	if diff := cmp.Diff(want, b.Command); diff != "" {
		t.Error(diff)
	}
	if b.Driver != "container" || b.Resources.CPU != 2 || b.Denied == "" || len(b.DependsOn) != 1 {
		t.Errorf("%+v", b)
	}
	if string(c.Command.Stdin) != `{"z":1.0,"a":"<é>"}` || c.TimeoutMS != 5 || c.Artifacts[0] != "out/x" || c.Retry.Attempts != 3 {
		t.Errorf("%+v, stdin %s", c, c.Command.Stdin)
	}
}

// What nofx exec offers for every tool, every tool takes.
func TestToolsTakeFilesAndEnv(t *testing.T) {
	t.Parallel()
	for tool, own := range map[string]string{"exec": `"argv":["x"]`, "bash": `"command":"x"`, "python": `"code":"x"`, "node": `"code":"x"`} {
		got, err := compile(t, `[{"name":"a","tool":"`+tool+`","inputs":{`+own+`,"env":{"A":"b"},"files":[{"path":"x","content_base64":"aGk=","mode":493}]}}]`)
		if err != nil {
			t.Errorf("%s: %v", tool, err)
			continue
		}
		if c := got[0].Command; len(c.Files) != 1 || c.Files[0].Mode != 0o755 || c.Env["A"] != "b" {
			t.Errorf("%s: %+v", tool, c)
		}
	}
}

// Faults of inputs are told at the input, in words.
func TestInputFaults(t *testing.T) {
	t.Parallel()
	for inputs, want := range map[string]string{
		`{}`:                        `inputs: required: missing properties: ["argv"]`,
		`{"argv":"x"}`:              `inputs.argv: type: x has type "string", want "array"`,
		`{"argv":[1]}`:              `inputs.argv[]: type: 1 has type "integer", want "string"`,
		`{"argv":["x"],"colour":1}`: `inputs: unexpected additional properties ["colour"]`,
		`{"argv":["x"],"files":[{"path":"a","mode":"0755"}]}`: `inputs.files[].mode: type: 0755 has type "string", want "integer"`,
		`{"argv":["x"],"files":[{"path":"a"},{"mode":1}]}`:    `inputs.files[]: required: missing properties: ["path"]`,
		`{"argv":["x"],"env":{"A":5}}`:                        `inputs.env.*: type: it has type "integer", want "string"`,
	} {
		_, err := compile(t, `[{"name":"a","tool":"exec","inputs":`+inputs+`}]`)
		if err == nil || err.Error() != "body.plan.steps[0]."+want {
			t.Errorf("%s: %v, want %s", inputs, err, want)
		}
	}
}

// The vectors that clients of the old system know.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	for inputs, want := range map[string]string{
		`{}`:  "44136fa355b3",
		`{ }`: "44136fa355b3",
		`{"command":"npm ci && npm test","cwd":"/workspace","timeout":120000}`:              "b2df4802a9c2",
		`{ "command": "npm ci \u0026\u0026 npm test", "cwd":"/workspace","timeout":120000}`: "b2df4802a9c2",
	} {
		tool := "bash"
		if len(inputs) < 5 {
			tool = "test:echo"
		}
		got, err := compile(t, fmt.Sprintf(`[{"name":"s","tool":%q,"inputs":%s}]`, tool, inputs))
		if err != nil {
			t.Fatal(err)
		}
		if key := IdempotencyKey("run_1", got[0]); key != "run_1:s:"+want {
			t.Errorf("%s: %s, want %s", inputs, key, want)
		}
	}
	// The policy counts, wherever it is written.
	one, err1 := compile(t, `[{"name":"s","tool":"test:echo","inputs":{"a":1,"_policy":{"tools_allowed":["test:echo"]}}}]`)
	two, err2 := compile(t, `[{"name":"s","tool":"test:echo","inputs":{"a":1},"tools_allowed":["test:echo"]}]`)
	if err1 != nil || err2 != nil || one[0].InputsHash != two[0].InputsHash {
		t.Errorf("%v %v: %s, %s", err1, err2, one[0].InputsHash, two[0].InputsHash)
	}
}

func FuzzCanonical(f *testing.F) {
	f.Add([]byte(`{"a":[1,2.50,{"b":"<>&"}],"c":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !json.Valid(raw) {
			return
		}
		once, err := canonical(raw)
		if err != nil {
			return
		}
		twice, err := canonical(once)
		if err != nil || string(once) != string(twice) {
			t.Errorf("%q → %q → %q, %v", raw, once, twice, err)
		}
	})
}

// Inputs that are nested too deeply are told so; as deep as they may be is fine.
func TestDeepInputs(t *testing.T) {
	t.Parallel()
	deep := func(n int) string {
		return `[{"name":"a","tool":"test:echo","inputs":` + strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) + `}]`
	}
	if _, err := compile(t, deep(maxDepth)); err != nil {
		t.Errorf("%d levels: %v", maxDepth, err)
	}
	if _, err := compile(t, deep(maxDepth+1)); !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "inputs: must not be nested deeper than 100") {
		t.Errorf("%d levels: %v", maxDepth+1, err)
	}
}
