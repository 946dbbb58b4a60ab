package onestep

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func defaults(change func(*Options)) Options {
	o := Options{Driver: "local", Tool: "exec", Network: "none", Timeout: 30 * time.Second, Command: []string{"true"}}
	if change != nil {
		change(&o)
	}
	return o
}

func TestPlan(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "in:put")
	if err := os.WriteFile(data, []byte("a\x00b"), 0o755); err != nil {
		t.Fatal(err)
	}
	plan, err := Plan(defaults(func(o *Options) {
		o.Command = []string{"sh", "-c", "exit 7"}
		o.CPU, o.Memory, o.Pids, o.Output = "0.5", "256Mi", "64", "1Mi"
		o.Env = []string{"A=1", "B=x=y"}
		o.Files = []string{data + ":in/data.bin"}
		o.Artifacts = []string{"out/a"}
		o.Input, o.Stdin = true, []byte("in <&>")
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := wire.Plan{Goal: "exec: sh -c exit 7", Steps: []wire.PlanStep{{
		Name: StepName, Tool: "exec", Driver: "local", TimeoutMS: 30000, Network: step.NetworkNone,
		Resources: &step.Resources{CPU: 0.5, MemoryMB: 256, Pids: 64, OutputKB: 1024},
		Inputs: json.RawMessage(`{"argv":["sh","-c","exit 7"],"env":{"A":"1","B":"x=y"},` +
			`"files":[{"path":"in/data.bin","content_base64":"YQBi","mode":493}],"stdin":"in <&>"}`),
		Artifacts: []string{"out/a"},
	}}}
	if diff := cmp.Diff(want, plan); diff != "" {
		t.Error(diff)
	}
}

func TestTools(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		tool string
		argv []string
		want string
	}{
		"script":     {"bash", []string{"echo a; echo b"}, `{"command":"echo a; echo b"}`},
		"words":      {"bash", []string{"echo", "a b", "it's", ""}, `{"command":"echo 'a b' 'it'\\''s' ''"}`},
		"python":     {"python", []string{"print(1 < 2)"}, `{"code":"print(1 < 2)"}`},
		"node":       {"node", []string{"1"}, `{"code":"1"}`},
		"plain argv": {"exec", []string{"a", "b c"}, `{"argv":["a","b c"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, err := Plan(defaults(func(o *Options) { o.Tool, o.Command = tc.tool, tc.argv }))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(plan.Steps[0].Inputs); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// What the shell makes of the joined words is what was typed.
func TestShellQuoting(t *testing.T) {
	t.Parallel()
	argv := []string{"printf", "%s|", "a b", "$HOME", "it's", "", "*", "a\nb", "\\", "-x", "ü", "`id`"}
	out, err := exec.Command("sh", "-c", shell(argv)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(argv[2:], "|") + "|"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func TestPlanRegions(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		typed []string
		one   string
		order []string
	}{
		"none":  {},
		"one":   {typed: []string{"eu-1"}, one: "eu-1"},
		"order": {typed: []string{"eu-1", "us-1"}, order: []string{"eu-1", "us-1"}},
	} {
		plan, err := Plan(defaults(func(o *Options) { o.Command, o.Regions = []string{"true"}, tc.typed }))
		if err != nil {
			t.Fatal(err)
		}
		if s := plan.Steps[0]; s.Region != tc.one || !slices.Equal(s.Regions, tc.order) {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, MaxFile+1); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*Options)
		kind   step.Kind
		want   string
	}{
		"odd disk":         {func(o *Options) { o.Disk = "1 Gi" }, step.KindInvalid, "--disk"},
		"odd network":      {func(o *Options) { o.Network = "some" }, step.KindInvalid, "none, allow or open"},
		"nobody to call":   {func(o *Options) { o.Network = "allow" }, step.KindInvalid, "needs --allow"},
		"a stray list":     {func(o *Options) { o.Network, o.Allow = "open", []string{"go"} }, step.KindInvalid, "--allow goes with"},
		"no command":       {func(o *Options) { o.Command = nil }, step.KindInvalid, "no command"},
		"bytes in command": {func(o *Options) { o.Command = []string{"printf", "\xff"} }, step.KindInvalid, "argument 2 is not UTF-8"},
		"bytes in path":    {func(o *Options) { o.Artifacts = []string{"a\xff"} }, step.KindInvalid, "--artifact a?: is not UTF-8"},
		"remote folder":    {func(o *Options) { o.Files = []string{plain + ":in/"} }, step.KindInvalid, "is that of a folder"},
		"bytes in env":     {func(o *Options) { o.Env = []string{"A=\xff"} }, step.KindInvalid, "--env A: not UTF-8"},
		"odd tool":         {func(o *Options) { o.Tool = "perl" }, step.KindInvalid, "--tool perl"},
		"code in pieces":   {func(o *Options) { o.Tool = "python"; o.Command = []string{"a", "b"} }, step.KindInvalid, "one argument"},
		"cpu word":         {func(o *Options) { o.CPU = "half" }, step.KindInvalid, "--cpu half"},
		"cpu zero":         {func(o *Options) { o.CPU = "0" }, step.KindInvalid, "--cpu 0"},
		"cpu NaN":          {func(o *Options) { o.CPU = "NaN" }, step.KindInvalid, "--cpu NaN"},
		"cpu infinite":     {func(o *Options) { o.CPU = "Inf" }, step.KindInvalid, "--cpu Inf"},
		"memory negative":  {func(o *Options) { o.Memory = "-1Mi" }, step.KindInvalid, "--memory -1Mi"},
		"memory overflow":  {func(o *Options) { o.Memory = "9000000000Gi" }, step.KindInvalid, "--memory"},
		"memory in parts":  {func(o *Options) { o.Memory = "1000000" }, step.KindInvalid, "whole multiples"},
		"output unit":      {func(o *Options) { o.Output = "1 MB" }, step.KindInvalid, "--output"},
		"pids negative":    {func(o *Options) { o.Pids = "-1" }, step.KindInvalid, "--pids -1"},
		"pids zero":        {func(o *Options) { o.Pids = "0" }, step.KindInvalid, "--pids 0"},
		"pids word":        {func(o *Options) { o.Pids = "many" }, step.KindInvalid, "a whole number"},
		"timeout negative": {func(o *Options) { o.Timeout = -time.Second }, step.KindInvalid, "--timeout"},
		"timeout zero":     {func(o *Options) { o.Timeout = 0 }, step.KindInvalid, "more than 0"},
		"timeout in parts": {func(o *Options) { o.Timeout = time.Microsecond }, step.KindInvalid, "whole milliseconds"},
		"env":              {func(o *Options) { o.Env = []string{"SECRET"} }, step.KindInvalid, "K=V"},
		"file spec":        {func(o *Options) { o.Files = []string{"x"} }, step.KindInvalid, "local:remote"},
		"file outside":     {func(o *Options) { o.Files = []string{big + ":../x"} }, step.KindInvalid, "below the workspace"},
		"file absolute":    {func(o *Options) { o.Files = []string{big + ":/etc/passwd"} }, step.KindInvalid, "below the workspace"},
		"file missing":     {func(o *Options) { o.Files = []string{dir + "/none:x"} }, step.KindInvalid, "no such file"},
		"file is folder":   {func(o *Options) { o.Files = []string{dir + ":x"} }, step.KindInvalid, "not a regular file"},
		"file twice":       {func(o *Options) { o.Files = []string{plain + ":x", plain + ":x"} }, step.KindInvalid, "another file"},
		"file too large":   {func(o *Options) { o.Files = []string{big + ":x"} }, step.KindTooLarge, "at most"},
		"stdin for bash":   {func(o *Options) { o.Input, o.Tool = true, "bash" }, step.KindInvalid, "only --tool exec"},
		"stdin too large":  {func(o *Options) { o.Input, o.Stdin = true, make([]byte, MaxStdin+1) }, step.KindTooLarge, "more than 1048576 bytes"},
		"stdin bytes":      {func(o *Options) { o.Input, o.Stdin = true, []byte("\xff") }, step.KindInvalid, "not UTF-8"},
		"artifact folder":  {func(o *Options) { o.Artifacts = []string{"/"} }, step.KindInvalid, "neither a file nor a folder"},
		"artifact twice":   {func(o *Options) { o.Artifacts = []string{"a/x", "b/x"} }, step.KindInvalid, "same base name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Plan(defaults(tc.change))
			if step.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v (%s), want %q (%s)", err, step.KindOf(err), tc.want, tc.kind)
			}
		})
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{"1Mi": 1, "1Gi": 1024, "1048576": 1, "2048Ki": 2} {
		if got, err := parseSize("--memory", s, 1<<20); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for s, want := range map[string]float64{"2": 2, "0.5": 0.5, "250m": 0.25} {
		if got, err := parseCPU(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
}
