package plan

import (
	"encoding/json"
	"strings"
	"testing"
)

// What is sensitive is told from the rest, and nothing that is made of the
// inputs is another for it: the hash is that of the values.
func TestSensitiveInputs(t *testing.T) {
	t.Parallel()
	const inputs = `{"command":"x","env":{"A":"hunter2","B":"<b>"},"_policy":{"env_allowed":["A","B"]}}`
	steps, err := compile(t, `[{"name":"a","tool":"bash","inputs":`+inputs+`},{"name":"b","tool":"bash","inputs":{"command":"x","env":{}}}]`)
	if err != nil {
		t.Fatal(err)
	}
	a := steps[0]
	if want := `{"command":"x","env":{"A":"[sealed]","B":"[sealed]"},"_policy":{"env_allowed":["A","B"]}}`; string(a.Inputs) != inputs || string(a.Redacted) != want {
		t.Errorf("%s %s", a.Inputs, a.Redacted)
	}
	if steps[1].Redacted != nil {
		t.Errorf("nothing to hide: %s", steps[1].Redacted)
	}
	have := Catalog{Handlers: shipped(t), Drivers: none{}, Presets: presets(t), Profiles: profiles(t)}
	again := func(edited string) (Step, error) {
		return Again(t.Context(), a.Spec, a.Inputs, Change{Inputs: json.RawMessage(edited)}, have)
	}
	same, err := again(string(a.Redacted))
	if err != nil || string(same.Inputs) != inputs || string(same.Redacted) != string(a.Redacted) || same.InputsHash != a.InputsHash || same.Command.Env["A"] != "hunter2" {
		t.Errorf("as it was: %+v %v", same, err)
	}
	_, err = again(`{"command":"y","env":{"B":"[sealed]","C":"c"},"_policy":{"env_allowed":["A","B"]}}`)
	if err == nil || !strings.Contains(err.Error(), "body.inputs.env.C: is not in env_allowed") {
		t.Errorf("%v", err)
	}
	some, err := again(`{"command":"y","env":{"B":"[sealed]"}}`)
	if err != nil || some.Command.Env["B"] != "<b>" || some.Command.Env["A"] != "" || string(some.Inputs) != `{"command":"y","env":{"B":"<b>"}}` {
		t.Errorf("%+v %v", some, err)
	}
	for _, edited := range []string{`{"command":"y","env":"[sealed]"}`, `{"command":"[sealed]","env":{"A":"[sealed]"}}`} {
		if out, err := again(edited); err != nil || out.Command.Env["A"] != "hunter2" {
			t.Errorf("%s: %+v %v", edited, out, err)
		}
	}
	if _, err := again(`{"command":"y","env":{"Z":"[sealed]"}}`); err == nil || !strings.Contains(err.Error(), "body.inputs.env.Z: stands for a sealed value") {
		t.Errorf("%v", err)
	}
	if _, err := compile(t, `[{"name":"a","tool":"bash","inputs":`+string(a.Redacted)+`}]`); err == nil || !strings.Contains(err.Error(), "inputs.env.A: stands for a sealed value") {
		t.Errorf("a new run with place holders: %v", err)
	}
	moved, err := Again(t.Context(), a.Spec, a.Inputs, Change{Driver: "local"}, have)
	if err != nil || string(moved.Inputs) != inputs || string(moved.Redacted) != string(a.Redacted) || moved.Command.Env["A"] != "hunter2" {
		t.Errorf("%+v %v", moved, err)
	}
}
