package configschema

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// doubling is a schema in which each of n definitions refers to the next twice.
func doubling(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"a%d":{"allOf":[{"$ref":"#/$defs/a%d"},{"$ref":"#/$defs/a%d"}]},`, i, i+1, i+1)
	}
	return fmt.Sprintf(`{"$ref":"#/$defs/a0","$defs":{%s"a%d":{}}}`, b.String(), n)
}

// What a plugin gives as its schema can take neither the stack of its host,
// which would end with every other driver, nor its time.
func TestHostile(t *testing.T) {
	t.Parallel()
	for name, schema := range map[string]string{
		"itself":            `{"$ref":"#"}`,
		"itself in a list":  `{"allOf":[{"$ref":"#"}]}`,
		"circle":            `{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"}]},"b":{"$ref":"#/$defs/a"}}}`,
		"circle, old names": `{"allOf":[{"$ref":"#/definitions/a"}],"definitions":{"a":{"not":{"$ref":"#/definitions/a"}}}}`,
		"escaped":           `{"$ref":"#/$defs/%61","$defs":{"%61":{},"a":{"$ref":"#/$defs/a"}}}`,
		"other case":        `{"$REF":"#"}`,
		"anchor":            `{"$anchor":"x","$ref":"#x"}`,
		"dynamic":           `{"$dynamicAnchor":"x","$dynamicRef":"#x"}`,
		"inner root":        `{"$defs":{"a":{},"b":{"$id":"http://x/y","$defs":{"a":{"$ref":"#/$defs/a"}},"allOf":[{"$ref":"#/$defs/a"}]}},"allOf":[{"$ref":"#/$defs/b"}]}`,
		"doubling":          doubling(40),
		"deep":              strings.Repeat(`{"not":`, 9000) + `{}` + strings.Repeat(`}`, 9000),
		"elsewhere":         `{"$ref":"file:///etc/passwd"}`,
		"large":             `{"description":"` + strings.Repeat("x", maxBytes) + `"}`,
		"none":              ``,
	} {
		began := time.Now()
		if _, err := Parse([]byte(schema)); !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

func TestReferences(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{
		`{"$id":"https://example.com/x","type":"object","properties":{"a":{"$ref":"#/$defs/port"},"b":{"$ref":"#/$defs/port"}},"$defs":{"port":{"type":"integer"}}}`,
		`{"properties":{"a":{"items":{"$ref":"#/definitions/port"}},"b":{"$ref":"#/definitions/port"}},"definitions":{"port":{"type":"integer"}}}`,
		`{"properties":{"$ref":{"type":"string"},"b":{"type":"integer"}}}`,
		doubling(5)[:len(doubling(5))-1] + `,"properties":{"b":{"type":"integer"}}}`,
	} {
		s, err := Parse([]byte(schema))
		if err != nil {
			t.Errorf("%s: %v", schema, err)
			continue
		}
		if err := s.Check([]byte(`{"b":7}`)); err != nil {
			t.Errorf("%s: %v", schema, err)
		}
		if err := s.Check([]byte(`{"b":"seven"}`)); !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: got %v", schema, err)
		}
	}
}

// A configuration may hold a secret; what is said of it must not.
func TestValuesAreNotTold(t *testing.T) {
	t.Parallel()
	s, err := Parse([]byte(`{"type": "object", "additionalProperties": false, "required": ["z"], "properties": {
		"z": {"type": "integer"}, "pattern": {"pattern": "^x$"}, "enum": {"enum": ["x", "y"]}, "const": {"const": 7},
		"length": {"maxLength": 3}, "type": {"items": {"type": "string"}}, "maximum": {"maximum": 3}, "multiple": {"multipleOf": 2},
		"contains": {"contains": {"type": "null"}}, "not": {"not": {}}, "one": {"oneOf": [{"type": "null"}]}, "false": false}}`))
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]string{
		`{"z": 1, "pattern": "54321 has type is it: 54321"}`: `/properties/pattern: pattern: it does not match regular expression "^x$"`,
		`{"z": 1, "enum": "54321"}`:                          `/properties/enum: enum: it does not equal any of: [x y]`,
		`{"z": 1, "const": "54321"}`:                         `/properties/const: const: it does not equal 7`,
		`{"z": 1, "length": "54321"}`:                        `/properties/length: maxLength: it contains 5 Unicode code points, more than 3`,
		`{"z": 1, "type": [54321]}`:                          `/properties/type/items: type: it has type "integer", want "string"`,
		`{"z": 1, "maximum": 54321}`:                         `/properties/maximum: maximum: it is greater than 3`,
		`{"z": 1, "multiple": 54321}`:                        `/properties/multiple: multipleOf: it `,
		`{"z": 1, "contains": [54321]}`:                      `/properties/contains: contains: `,
		`{"z": 1, "not": 54321}`:                             `/properties/not: not: `,
		`{"z": 1, "one": 54321}`:                             `/properties/one: oneOf: `,
		`{"z": 1, "false": 54321}`:                           `/properties/false: `,
		`{"z": 1, "zz": 54321}`:                              `unexpected additional properties ["zz"]`,
		`{}`:                                                 `required: missing properties: ["z"]`,
		`"54321"`:                                            `type: it has type "string", want "object"`,
		`{"z": 54321`:                                        `unexpected end of JSON input`,
	} {
		err := s.Check([]byte(config))
		if !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "54321") {
			t.Errorf("%s: %v", config, err)
		}
	}
}
