package planfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// toJSON turns YAML into JSON. What has no JSON form is an error.
func toJSON(body []byte) ([]byte, error) {
	dec := yaml.NewDecoder(bytes.NewReader(body))
	var node yaml.Node
	if err := dec.Decode(&node); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("empty")
		}
		return nil, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	if err := tame(&node); err != nil {
		return nil, err
	}
	var doc any
	if err := node.Decode(&doc); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

// tame makes dates the text that they are written as, for JSON has none, and
// refuses keys, numbers and bytes that JSON cannot have.
func tame(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		switch n.ShortTag() {
		case "!!timestamp":
			n.Tag = "!!str"
		case "!!binary": // whose bytes need not be text
			return fmt.Errorf("line %d: bytes have no form in JSON: give them as text", n.Line)
		case "!!float":
			if word := strings.ToLower(strings.TrimLeft(n.Value, "+-")); word == ".nan" || word == ".inf" {
				return fmt.Errorf("line %d: %s is no number in JSON", n.Line, n.Value)
			}
			if strings.Trim(n.Value, "+-_0123456789") == "" { // whose last digits a float would lose
				return fmt.Errorf("line %d: %s is too large for a whole number: put it in quotes", n.Line, n.Value)
			}
		}
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			key := child
			if key.Alias != nil {
				key = key.Alias
			}
			if tag := key.ShortTag(); tag != "!!str" && tag != "!!merge" && tag != "!!timestamp" {
				return fmt.Errorf("line %d: the key %s is not text: put it in quotes", child.Line, key.Value)
			}
		}
		if err := tame(child); err != nil {
			return err
		}
	}
	return nil
}
