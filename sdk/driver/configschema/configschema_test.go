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
