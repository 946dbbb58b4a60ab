package plan

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/internal/strictyaml"
	"github.com/nofx-run/nofx/sdk/step"
)

// Presets are names for lists of whom a step may call: rules by name.
type Presets map[string][]string

// presetName tells a preset from a rule, which has a dot or a bracket in it.
var presetName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// ParsePresets reads a YAML file of lists of rules and of names of other
// presets, and checks all of it.
func ParsePresets(data []byte) (Presets, error) {
	var raw map[string][]string
	if err := strictyaml.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	out := Presets{}
	for name := range raw {
		if !presetName.MatchString(name) {
			return nil, fmt.Errorf("preset %.80q: a name is lower-case letters, digits and hyphens", name)
		}
		rules, err := flatten(raw, name, 0)
		if err != nil {
			return nil, err
		}
		out[name] = rules
	}
	return out, nil
}

// flatten gives the rules of a preset, those of the presets in it included.
func flatten(raw map[string][]string, name string, depth int) ([]string, error) {
	if depth > 8 {
		return nil, fmt.Errorf("preset %s: its names lead in a circle, or too deep", name)
	}
	var out []string
	for _, entry := range raw[name] {
		if _, other := raw[entry]; other {
			rules, err := flatten(raw, entry, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, rules...)
			continue
		}
		r, err := step.ParseRule(entry)
		if err != nil {
			return nil, fmt.Errorf("preset %s: %w", name, err)
		}
		out = append(out, r.String())
	}
	return out, nil
}

func (p Presets) names() string { return strings.Join(slices.Sorted(maps.Keys(p)), ", ") }
