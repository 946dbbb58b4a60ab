// Package configschema reads the JSON Schema of a driver's configuration, which
// is the word of a plugin: what would take the reader's stack or time is refused.
package configschema

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"regexp"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/nofx-run/nofx/sdk/step"
)

// Bounds of a schema. Beyond them, or in a circle of references, checking a
// configuration would take the stack of the process, or for ever.
const (
	maxBytes = 256 << 10
	maxDepth = 100    // of its JSON, and of schemas in schemas
	maxParts = 10_000 // schemas, each reference counted as what it names
)

// Schema checks configurations.
type Schema struct{ resolved *jsonschema.Resolved }

// Parse reads a schema. References are taken in the forms #/$defs/NAME and
// #/definitions/NAME, and not in a circle.
func Parse(data []byte) (Schema, error) {
	if len(data) > maxBytes {
		return Schema{}, step.Errorf(step.KindInvalid, "it has %d bytes, more than %d", len(data), maxBytes)
	}
	if err := shallow(data); err != nil {
		return Schema{}, err
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(data, &s); err != nil {
		return Schema{}, step.Errorf(step.KindInvalid, "%w", err)
	}
	m := measure{root: &s, parts: maxParts}
	if err := m.schema(&s, 1); err != nil {
		return Schema{}, err
	}
	resolved, err := s.Resolve(nil)
	if err != nil {
		return Schema{}, step.Errorf(step.KindInvalid, "%w", err)
	}
	return Schema{resolved}, nil
}

// Check says what of a configuration the schema does not allow.
func (s Schema) Check(config json.RawMessage) error {
	var value any
	if err := json.Unmarshal(config, &value); err != nil {
		return step.Errorf(step.KindInvalid, "%w", err)
	}
	if err := s.resolved.Validate(value); err != nil {
		return step.Errorf(step.KindInvalid, "%s", withoutValue(err.Error()))
	}
	return nil
}

// withoutValue leaves the configuration's value out of what the validator says:
// it may be a secret, and what is said goes into logs and to everybody who lists
// the drivers. Where it is and what the schema wants stay.
func withoutValue(said string) string {
	m := keyword.FindStringSubmatch(said)
	if m == nil {
		return said // names alone
	}
	after := ""
	switch m[2] {
	case "required", "dependentRequired", "oneOf", "anyOf", "not", "uniqueItems":
		return said
	case "type":
		after = " has type "
	case "enum", "const":
		after = " does not equal "
	case "pattern":
		after = " does not match "
	case "minLength", "maxLength":
		after = " contains "
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum":
		after = " is "
	}
	if i := strings.LastIndex(said, after); after != "" && i >= len(m[0]) {
		return m[0] + "it" + said[i:]
	}
	return m[0] + "it does not hold"
}

// keyword is where the validator is and by what it judges.
var keyword = regexp.MustCompile(`^((?:validating [^:]*: )*)([A-Za-z]+): `)

// shallow refuses JSON that is nested too deep; reading a schema takes time
// with the square of that.
func shallow(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	for depth := 0; ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return step.Errorf(step.KindInvalid, "%w", err)
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > maxDepth {
			return errTooDeep
		}
	}
}

var errTooDeep = step.Errorf(step.KindInvalid, "it is nested too deep, or refers to itself")

// measure goes through a schema as the validator may have to, following each
// reference anew.
type measure struct {
	root  *jsonschema.Schema
	parts int // that are left
}

func (m *measure) schema(s *jsonschema.Schema, depth int) error {
	if m.parts--; m.parts < 0 {
		return step.Errorf(step.KindInvalid, "it is too large with its references followed")
	}
	if depth > maxDepth {
		return errTooDeep
	}
	if s.DynamicRef != "" {
		return step.Errorf(step.KindInvalid, "$dynamicRef is not taken")
	}
	if s.ID != "" && s != m.root { // it would change what references name
		return step.Errorf(step.KindInvalid, "$id is taken at the root only")
	}
	if s.Ref != "" {
		target := m.target(s.Ref)
		if target == nil {
			return step.Errorf(step.KindInvalid, "$ref: it names nothing, or is not of the form #/$defs/NAME")
		}
		if err := m.schema(target, depth+1); err != nil {
			return err
		}
	}
	return m.children(reflect.ValueOf(s).Elem(), depth)
}

// target finds what a reference names; nil if it is not of a form that is taken.
func (m *measure) target(ref string) *jsonschema.Schema {
	for prefix, defs := range map[string]map[string]*jsonschema.Schema{"#/$defs/": m.root.Defs, "#/definitions/": m.root.Definitions} {
		if name, ok := strings.CutPrefix(ref, prefix); ok && !strings.ContainsAny(name, "/~%") {
			return defs[name]
		}
	}
	return nil
}

// children measures the schemas in the fields of a schema, whichever they are.
func (m *measure) children(v reflect.Value, depth int) error {
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		var inner []*jsonschema.Schema
		switch f := v.Field(i).Interface().(type) {
		case *jsonschema.Schema:
			inner = []*jsonschema.Schema{f}
		case []*jsonschema.Schema:
			inner = f
		case map[string]*jsonschema.Schema:
			for _, s := range f {
				inner = append(inner, s)
			}
		}
		for _, s := range inner {
			if s == nil {
				continue
			}
			if err := m.schema(s, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
