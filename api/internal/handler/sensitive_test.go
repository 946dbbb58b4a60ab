package handler

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/nofx-run/nofx/api/internal/profile"
)

func sensitiveHandler(t *testing.T, shown string) *Handler {
	t.Helper()
	h, err := loadInputs(`{type: object, properties: {env: {type: object, x-sensitive: true, additionalProperties: {type: string, maxLength: 9}},
  words: {type: array, x-sensitive: true}, pin: {type: integer, maximum: 9, x-sensitive: true}, plain: {type: string, x-sensitive: false}}}`, shown)
	if err != nil {
		t.Fatal(err)
	}
	found, _ := h.Find("x:y")
	return found
}

func loadInputs(inputs, shown string) (*Set, error) {
	text := "tool: x:*\ndescription: x\ndriver: local\nresources: {cpu: 1, memory_mb: 128, pids: 32, output_kb: 4096}\n" +
		"timeout_ms: 30000\ninputs: " + inputs + "\ncommand: {argv: [cat], stdin: {inputs: json}, env: {input: env}}\nshown: " + shown + "\noutputs: shell\n"
	return Load(fstest.MapFS{"x.yaml": {Data: []byte(text)}}, profile.Set{})
}

// What is sensitive is not there any more, and comes back where it was.
func TestRedactAndFill(t *testing.T) {
	t.Parallel()
	h := sensitiveHandler(t, "x")
	for in, want := range map[string]string{
		`{"plain":"a"}`:                         "",
		`{"env":{},"words":[],"plain":"<a>"}`:   "",
		`{"plain":"a","env":{"B":"b","A":"a"}}`: `{"plain":"a","env":{"B":"[sealed]","A":"[sealed]"}}`,
		`{"words":["a",{"b":1}],"pin":7}`:       `{"words":"[sealed]","pin":"[sealed]"}`,
		`{"env":"a","_policy":{"env":1}}`:       `{"env":"[sealed]","_policy":{"env":1}}`,
		`{"env":{"A":{"deep":"a"}}}`:            `{"env":{"A":"[sealed]"}}`,
		`{"env":{"A":"1"},"env":{"A":"2"}}`:     `{"env":{"A":"[sealed]"},"env":{"A":"[sealed]"}}`,
		`["no object"]`:                         `{}`,
	} {
		got, found := h.Redact(json.RawMessage(in))
		if found != (want != "") || found && string(got) != want || !found && string(got) != in {
			t.Errorf("%s: %s %v", in, got, found)
		}
		if found && want != "{}" && !strings.Contains(in, `},"env"`) {
			back, faults := h.Fill(got, json.RawMessage(in))
			if len(faults) > 0 || string(back) != in {
				t.Errorf("%s: filled to %s %v", in, back, faults)
			}
			if _, faults := h.Fill(got, nil); len(faults) == 0 {
				t.Errorf("%s: filled from nothing", got)
			}
			if _, faults := h.Fill(got, got); len(faults) == 0 {
				t.Errorf("%s: filled from what is sealed itself", got)
			}
		}
	}
	got, faults := h.Fill(json.RawMessage(`{"plain":"[sealed]","env":{"A":"new","B":"[sealed]","C":"[sealed]"}}`), json.RawMessage(`{"env":{"A":"a","B":"b"}}`))
	if want := `{"plain":"[sealed]","env":{"A":"new","B":"b","C":"[sealed]"}}`; string(got) != want || len(faults) != 1 || faults[0].Location != "inputs.env.C" {
		t.Errorf("%s %v", got, faults)
	}
}

// Neither the text for people nor an error has a sensitive value in it; the
// command has.
func TestSensitiveIsNotTold(t *testing.T) {
	t.Parallel()
	for shown, want := range map[string]string{"{input: words}": "[sealed]", "{inputs: json}": `{"plain":"see","words":"[sealed]"}`, "{input: plain}": "see"} {
		out, bad := sensitiveHandler(t, shown).Render("x:y", json.RawMessage(`{"plain":"see","words":["hunter2"]}`), nil)
		if len(bad) > 0 || out.Shown != want || !strings.Contains(string(out.Command.Stdin), "hunter2") {
			t.Errorf("%s: %q %s %v", shown, out.Shown, out.Command.Stdin, bad)
		}
	}
	h := sensitiveHandler(t, "x")
	for in, want := range map[string]string{
		`{"env":{"A":"hunter2hunter2"}}`: "maxLength: it contains 14",
		`{"env":"hunter2"}`:              `type: it has type "string"`,
		`{"pin":123456}`:                 "not shown",
		`{"plain":5}`:                    `5 has type`,
	} {
		_, bad := h.Render("x:y", json.RawMessage(in), nil)
		if len(bad) != 1 || !strings.Contains(bad[0].Message, want) || strings.Contains(bad[0].Message, "hunter2") || strings.Contains(bad[0].Message, "123456") || bad[0].Value != nil {
			t.Errorf("%s: %v", in, bad)
		}
	}
	any, err := loadInputs(`{type: object, properties: {env: {x-sensitive: true}}, anyOf: [{properties: {env: {const: 1}}}], required: [plain]}`, "x")
	if err != nil {
		t.Fatal(err)
	}
	found, _ := any.Find("x:y")
	for in, want := range map[string]string{`{"env":"hunter2","plain":1}`: "not shown", `{"env":1}`: `required: missing properties: ["plain"]`} {
		_, bad := found.Render("x:y", json.RawMessage(in), nil)
		if len(bad) != 1 || !strings.Contains(bad[0].Message, want) || strings.Contains(bad[0].Message, "hunter2") {
			t.Errorf("%s: %v", in, bad)
		}
	}
}

// A mark that would do nothing is refused.
func TestMarkInTheWrongPlace(t *testing.T) {
	t.Parallel()
	for inputs, want := range map[string]string{
		`{type: object, properties: {a: {type: object, properties: {b: {x-sensitive: true}}}}}`: "inputs.a: x-sensitive",
		`{type: object, properties: {a: {type: array, items: {x-sensitive: true}}}}`:            "inputs.a: x-sensitive",
		`{type: object, x-sensitive: true}`:                                                     "inputs: x-sensitive",
		`{type: object, $defs: {a: {x-sensitive: true}}}`:                                       "inputs: x-sensitive",
		`{type: object, properties: {a: {x-sensitive: "yes"}}}`:                                 "true or false",
	} {
		if _, err := loadInputs(inputs, "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", inputs, err)
		}
	}
}
