package handler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// sensitiveMark is the keyword of a property whose values must not lie in clear.
const sensitiveMark = "x-sensitive"

// marked are the properties of a handler's inputs that its schema marks. The
// mark counts at the first level alone; elsewhere it would promise what it does
// not do, and is refused.
func marked(schema *jsonschema.Schema) ([]string, error) {
	var names []string
	for name, p := range schema.Properties {
		switch mark, there := p.Extra[sensitiveMark]; {
		case mark == true:
			names = append(names, name)
		case there && mark != false:
			return nil, fmt.Errorf("inputs.%s: %s is true or false", name, sensitiveMark)
		}
		flat := *p
		flat.Extra = nil
		if text, err := json.Marshal(&flat); err != nil || bytes.Contains(text, []byte(`"`+sensitiveMark+`"`)) {
			return nil, fmt.Errorf("inputs.%s: %s goes with a property of the inputs themselves, and covers all below it", name, sensitiveMark)
		}
	}
	rest := *schema
	rest.Properties = nil
	if text, err := json.Marshal(&rest); err != nil || bytes.Contains(text, []byte(`"`+sensitiveMark+`"`)) {
		return nil, fmt.Errorf("inputs: %s goes with a property of the inputs themselves", sensitiveMark)
	}
	slices.Sort(names)
	return names, nil
}

// Sensitive are the names of the inputs whose values must not lie in clear.
func (h *Handler) Sensitive() []string { return h.sensitive }

// Redact puts wire.Sealed in the place of what is sensitive in inputs, a JSON
// object in compact form. Of an object the names stay, of everything else
// nothing. found is false when there is nothing to hide.
func (h *Handler) Redact(inputs json.RawMessage) (redacted json.RawMessage, found bool) {
	if len(h.sensitive) == 0 {
		return inputs, false
	}
	out, err := members(inputs, func(name string, v json.RawMessage) (json.RawMessage, error) {
		if !slices.Contains(h.sensitive, name) || empty(v) {
			return v, nil
		}
		found = true
		if v[0] != '{' {
			return sealedMark, nil
		}
		return members(v, func(string, json.RawMessage) (json.RawMessage, error) { return sealedMark, nil })
	})
	if err != nil { // not an object: nobody has checked it, so nobody sees it
		return json.RawMessage("{}"), true
	}
	return out, found
}

// ForPeople is the command for people of inputs that were checked before. shown
// is what it was; it stays when nothing sensitive can be in it.
func (h *Handler) ForPeople(inputs json.RawMessage, shown string) string {
	if !h.m.Shown.all && !slices.Contains(h.sensitive, h.m.Shown.input) {
		return shown
	}
	var plain map[string]any
	if json.Unmarshal(inputs, &plain) != nil {
		return wire.Sealed
	}
	raw, plain, err := h.forPeople(inputs, plain)
	if err != nil {
		return wire.Sealed
	}
	text, _, err := h.m.Shown.text(scope{inputs: plain, raw: raw})
	if err != nil {
		return wire.Sealed
	}
	return strings.ReplaceAll(text, "\x00", "")
}

// forPeople are checked inputs without what is sensitive. A member that people
// see in place of an object or a list is one word.
func (h *Handler) forPeople(raw json.RawMessage, inputs map[string]any) (json.RawMessage, map[string]any, error) {
	redacted, found := h.Redact(raw)
	if !found {
		return raw, inputs, nil
	}
	var out map[string]any
	err := json.Unmarshal(redacted, &out)
	for _, name := range h.sensitive {
		if _, there := out[name]; there {
			out[name] = wire.Sealed
		}
	}
	return redacted, out, err
}

// Fill puts what was sealed back where inputs still have wire.Sealed in its
// place: edited inputs, that is. old are the inputs as they were; nil = there
// were none. What is to be filled and cannot is a fault, located below "inputs".
func (h *Handler) Fill(inputs, old json.RawMessage) (json.RawMessage, []step.FieldError) {
	if len(h.sensitive) == 0 || !bytes.Contains(inputs, sealedMark) {
		return inputs, nil
	}
	var before map[string]json.RawMessage
	_ = json.Unmarshal(old, &before) // none is none
	var faults []step.FieldError
	fill := func(at string, v json.RawMessage, from map[string]json.RawMessage, name string) json.RawMessage {
		if !bytes.Equal(v, sealedMark) {
			return v
		}
		if was, there := from[name]; there && !bytes.Equal(was, sealedMark) {
			return was
		}
		faults = append(faults, step.FieldError{Location: at, Message: "stands for a sealed value, and there is none to put in its place: give the value itself", Value: wire.Sealed})
		return v
	}
	out, err := members(inputs, func(name string, v json.RawMessage) (json.RawMessage, error) {
		if !slices.Contains(h.sensitive, name) || len(v) == 0 {
			return v, nil
		}
		at := "inputs." + name
		if v[0] != '{' {
			return fill(at, v, before, name), nil
		}
		var inner map[string]json.RawMessage
		_ = json.Unmarshal(before[name], &inner) // what was no object has no members
		return members(v, func(key string, v json.RawMessage) (json.RawMessage, error) {
			return fill(at+"."+key, v, inner, key), nil
		})
	})
	if err != nil {
		return inputs, nil // the schema says what is wrong with it
	}
	return out, faults
}

var sealedMark = json.RawMessage(`"` + wire.Sealed + `"`)

func empty(v json.RawMessage) bool {
	switch string(v) {
	case "", "null", "{}", "[]", `""`:
		return true
	}
	return false
}

// members is a JSON object with other values, in the same order.
func members(object json.RawMessage, change func(name string, v json.RawMessage) (json.RawMessage, error)) (json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("no object")
	}
	var out bytes.Buffer
	out.WriteByte('{')
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if v, err = change(name, v); err != nil {
			return nil, err
		}
		if out.Len() > 1 {
			out.WriteByte(',')
		}
		key := &bytes.Buffer{}
		enc := json.NewEncoder(key)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(name); err != nil {
			return nil, err
		}
		out.Write(bytes.TrimRight(key.Bytes(), "\n"))
		out.WriteByte(':')
		out.Write(v)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// discreet is what may be said of a fault that a schema finds at where: the
// library's messages quote values.
func (h *Handler) discreet(where, message string, inputs map[string]any) string {
	at := strings.TrimPrefix(where, ".")
	for _, name := range h.sensitive {
		if rest, below := strings.CutPrefix(at, name); below && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			for rule, after := range map[string]string{"type:": " has type ", "minLength:": " contains ", "maxLength:": " contains "} {
				if i := strings.LastIndex(message, after); i > 0 && strings.HasPrefix(message, rule) {
					return rule + " it" + message[i:] // what comes before is the value
				}
			}
			return "does not fit the handler's schema; its value is sensitive and not shown"
		}
	}
	if at != "" || !slices.ContainsFunc(h.sensitive, func(name string) bool { _, there := inputs[name]; return there }) {
		return message
	}
	for _, plain := range []string{"required:", "unexpected additional properties", "minProperties:", "maxProperties:", "dependentRequired"} {
		if strings.HasPrefix(message, plain) {
			return message
		}
	}
	return "do not fit the handler's schema; a value of theirs is sensitive and not shown"
}
