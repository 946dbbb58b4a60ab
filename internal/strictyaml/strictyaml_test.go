package strictyaml_test

import (
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/strictyaml"
)

func TestUnmarshal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, fault string }{
		"one":          {"n: 3\n", ""},
		"marked":       {"---\nn: 3\n...\n", ""},
		"empty":        {"", ""},
		"comment":      {"# nothing\n", ""},
		"unknown":      {"n: 3\nm: 1\n", "field m not found"},
		"two":          {"n: 3\n---\nn: 4\n", "more than one document"},
		"second empty": {"n: 3\n---\n", "more than one document"},
		"twice":        {"n: 3\nn: 4\n", "already defined"},
		"no YAML":      {"n: [", "did not find"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var v struct{ N int }
			err := strictyaml.Unmarshal([]byte(c.text), &v)
			if c.fault == "" {
				if err != nil || strings.Contains(c.text, "n: 3") != (v.N == 3) {
					t.Errorf("%+v, %v", v, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%v, want %q", err, c.fault)
			}
		})
	}
}
