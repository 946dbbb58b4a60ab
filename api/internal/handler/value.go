package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is one word of a manifest's command: a literal string, {input: name}
// for one of the inputs, {inputs: json} for all of them, or {tool: rest} for
// what follows the prefix in the tool's name.
type value struct {
	set     bool
	literal string
	input   string
	all     bool
	rest    bool
}

// UnmarshalYAML reads the forms above and refuses every other.
func (v *value) UnmarshalYAML(node *yaml.Node) error {
	v.set = true
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&v.literal)
	}
	var m map[string]string
	if err := node.Decode(&m); err != nil {
		return err
	}
	switch {
	case len(m) == 1 && m["input"] != "":
		v.input = m["input"]
	case len(m) == 1 && m["inputs"] == "json":
		v.all = true
	case len(m) == 1 && m["tool"] == "rest":
		v.rest = true
	default:
		return fmt.Errorf("line %d: a value is a string, {input: name}, {inputs: json} or {tool: rest}", node.Line)
	}
	return nil
}

// scope is what values refer to.
type scope struct {
	rest   string
	inputs map[string]any
	raw    json.RawMessage // of inputs, compact
}

// of is the value itself; nil when the input is not there.
func (v value) of(s scope) any {
	switch {
	case v.all:
		return string(s.raw)
	case v.rest:
		return s.rest
	case v.input != "":
		return s.inputs[v.input]
	}
	return v.literal
}

// text is the value as one string; ok is false when it is not there.
func (v value) text(s scope) (text string, ok bool, err error) {
	switch x := v.of(s).(type) {
	case nil:
		return "", false, nil
	case string:
		return x, true, nil
	case bool:
		return strconv.FormatBool(x), true, nil
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64), true, nil
	case []any:
		words, err := v.words(s)
		return strings.Join(words, " "), true, err
	default:
		return "", false, errors.New("an object cannot be a word")
	}
}

// words is the value as arguments: a list gives one each.
func (v value) words(s scope) ([]string, error) {
	list, ok := v.of(s).([]any)
	if !ok {
		text, there, err := v.text(s)
		if err != nil || !there {
			return nil, err
		}
		return []string{text}, nil
	}
	out := make([]string, 0, len(list))
	for _, item := range list {
		word, ok := item.(string)
		if !ok {
			return nil, errors.New("an argument must be a string")
		}
		out = append(out, word)
	}
	return out, nil
}
