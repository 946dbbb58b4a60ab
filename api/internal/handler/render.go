package handler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"strings"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Workspace is where a step's shared folder is inside every sandbox.
const Workspace = "/workspace"

// Rendered is what a step's inputs come to.
type Rendered struct {
	Command   wire.Command
	Shown     string // the command, for people: without what is sensitive
	TimeoutMS int64  // the inputs' own; 0 = none
}

// baseEnv is the environment that every step has, without PWD.
func baseEnv() map[string]string {
	return map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/home/step", "USER": "step", "SHELL": "/bin/bash", "TMP": "/tmp", "TEMP": "/tmp",
		"NODE_ENV": "development", "TZ": "UTC", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8",
	}
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,255}$`)

// Render checks inputs (a JSON object without the keys that stand for step
// fields) against the handler's schema and makes the command. allowed, when
// not nil, are the names that inputs may set in the environment besides the
// base ones. What is wrong with the inputs comes back as fields, located
// below "inputs".
func (h *Handler) Render(tool string, raw json.RawMessage, allowed []string) (Rendered, []step.FieldError) {
	refuse := func(where, format string, args ...any) (Rendered, []step.FieldError) {
		return Rendered{}, []step.FieldError{{Location: where, Message: fmt.Sprintf(format, args...)}}
	}
	var inputs map[string]any
	if err := json.Unmarshal(raw, &inputs); err != nil || inputs == nil {
		return refuse("inputs", "must be a JSON object")
	}
	if err := h.schema.Validate(inputs); err != nil {
		where, message := schemaFault(err)
		return refuse("inputs"+where, "%s", h.discreet(where, message, inputs))
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return refuse("inputs", "must be a JSON object")
	}
	s := scope{rest: strings.TrimPrefix(tool, strings.TrimSuffix(h.m.Tool, "*")), inputs: inputs, raw: compact.Bytes()}

	var out Rendered
	for _, v := range h.m.Command.Argv {
		words, err := v.words(s)
		if err != nil {
			return refuse("inputs", "%v", err)
		}
		out.Command.Argv = append(out.Command.Argv, words...)
	}
	if len(out.Command.Argv) == 0 || out.Command.Argv[0] == "" {
		return refuse("inputs", "the command is empty")
	}
	for _, word := range out.Command.Argv {
		if strings.ContainsRune(word, 0) {
			return refuse("inputs", "a command holds no NUL byte")
		}
	}
	cwd, _, err := h.m.Command.Cwd.text(s)
	if err != nil {
		return refuse("inputs.cwd", "%v", err)
	}
	full, ok := InWorkspace(cwd)
	if !ok {
		return refuse("inputs.cwd", "must stay below %s", Workspace)
	}
	out.Command.Cwd = full
	if stdin, there, err := h.m.Command.Stdin.text(s); err != nil {
		return refuse("inputs.stdin", "%v", err)
	} else if there && h.m.Command.Stdin.set {
		out.Command.Stdin = []byte(stdin)
	}
	own, field := environment(h.m.Command.Env.of(s), allowed)
	if field != nil {
		return Rendered{}, []step.FieldError{*field}
	}
	out.Command.Env = baseEnv()
	out.Command.Env["PWD"] = full
	maps.Copy(out.Command.Env, own)
	for _, f := range h.m.Command.Files {
		files, err := f.render(s)
		if err != nil {
			return refuse("inputs.files", "%v", err)
		}
		out.Command.Files = append(out.Command.Files, files...)
	}
	if err := apart(out.Command.Files); err != nil {
		return refuse("inputs.files", "%v", err)
	}
	if s.raw, s.inputs, err = h.forPeople(s.raw, inputs); err != nil {
		return refuse("inputs", "%v", err)
	}
	if out.Shown, _, err = h.m.Shown.text(s); err != nil {
		return refuse("inputs", "%v", err)
	}
	if ms, ok := inputs["timeout"].(float64); ok {
		out.TimeoutMS = int64(ms)
	}
	return out, nil
}

func environment(v any, allowed []string) (map[string]string, *step.FieldError) {
	given, _ := v.(map[string]any) // a manifest without env has the empty literal
	out := make(map[string]string, len(given))
	base := baseEnv()
	for name, v := range given {
		text, ok := v.(string)
		_, isBase := base[name]
		switch {
		case !envName.MatchString(name):
			return nil, &step.FieldError{Location: "inputs.env", Message: "a name is letters, digits and _", Value: clip(name)}
		case !ok || strings.ContainsRune(text, 0):
			return nil, &step.FieldError{Location: "inputs.env." + name, Message: "must be a string without NUL bytes"}
		case allowed != nil && !isBase && name != "PWD" && !contains(allowed, name):
			return nil, &step.FieldError{Location: "inputs.env." + name, Message: "is not in env_allowed"}
		}
		out[name] = text
	}
	return out, nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func clip(s string) string { return s[:min(len(s), 100)] }

// InWorkspace is the absolute path of a folder named by p, relative to the
// workspace or absolute; ok is false when it is not in the workspace.
func InWorkspace(p string) (full string, ok bool) {
	if strings.ContainsRune(p, 0) {
		return "", false
	}
	if !path.IsAbs(p) {
		p = Workspace + "/" + p
	}
	full = path.Clean(p)
	return full, full == Workspace || strings.HasPrefix(full, Workspace+"/")
}

// schemaFault takes the library's message apart: "validating PATH: " for each
// level of the schema, the last of which says where it is, then what is wrong.
// That quotes the value and is bounded here.
func schemaFault(err error) (where, message string) {
	message = err.Error()
	for {
		level, found := strings.CutPrefix(message, "validating ")
		place, rest, more := strings.Cut(level, ": ")
		if !found || !more {
			break
		}
		where, message = inputAt(place), rest
	}
	if len(message) > 300 {
		message = strings.ToValidUTF8(message[:300], "") + "…"
	}
	return where, message
}

// inputAt is where the inputs are that a place in their schema speaks of:
// ".files[].mode" for /properties/files/items/properties/mode.
func inputAt(place string) string {
	var out strings.Builder
	for parts := strings.Split(place, "/"); len(parts) > 0; parts = parts[1:] {
		switch {
		case parts[0] == "properties" && len(parts) > 1:
			parts = parts[1:]
			out.WriteString("." + strings.NewReplacer("~1", "/", "~0", "~").Replace(parts[0]))
		case parts[0] == "items":
			out.WriteString("[]")
		case parts[0] == "additionalProperties":
			out.WriteString(".*")
		}
	}
	return out.String()
}
