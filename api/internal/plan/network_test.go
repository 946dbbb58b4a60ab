package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestNetwork(t *testing.T) {
	t.Parallel()
	steps, err := compile(t, `[{"name":"a","tool":"test:echo","network":"allow","network_allow":["registries","API.example.com:8443","npm","10.0.0.0/8:5432"]},
		{"name":"b","tool":"test:echo","network":"open"},{"name":"c","tool":"test:echo"}]`)
	if err != nil {
		t.Fatal(err)
	}
	got := steps[0].NetworkAllow
	for _, want := range []string{"registry.npmjs.org:443", "proxy.golang.org:443", "deb.debian.org", "api.example.com:8443", "10.0.0.0/8:5432"} {
		if !slices.Contains(got, want) {
			t.Errorf("%v lacks %s", got, want)
		}
	}
	if len(slices.Compact(slices.Sorted(slices.Values(got)))) != len(got) {
		t.Errorf("a rule is there twice: %v", got)
	}
	if steps[1].Network != step.NetworkOpen || steps[2].Network != step.NetworkNone || steps[1].NetworkAllow != nil {
		t.Errorf("%+v, %+v", steps[1], steps[2])
	}
	for most, refused := range map[step.Network]int{step.NetworkOpen: 0, step.NetworkAllow: 1, step.NetworkNone: 2} {
		err := Ceiling{Network: most}.Apply(steps)
		if refused == 0 {
			if err != nil {
				t.Errorf("%s: %v", most, err)
			}
			continue
		}
		var fault *step.Error
		if !step.Is(err, step.KindForbidden) || !errors.As(err, &fault) || len(fault.Fields) != refused {
			t.Errorf("%s: %v", most, err)
		}
	}
}

func TestPresetsRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a: [b]\nb: [a]":              "circle",
		"a: [https://x.com/]":         "preset a",
		"A.b: [example.com]":          "lower-case",
		"a: 5":                        "cannot unmarshal",
		"a: [x.com]\n---\nb: [y.com]": "more than one document",
	} {
		if p, err := ParsePresets([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
}

// Steps that share a workspace have one disk limit.
func TestSharedDisk(t *testing.T) {
	t.Parallel()
	steps, err := compile(t, `[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","resources":{"disk_mb":64}},
		{"name":"c","tool":"test:echo","workspace":"step"},{"name":"d","tool":"test:echo","workspace":"step","resources":{"disk_mb":8}},
		{"name":"e","tool":"test:echo","driver":"e2b"}]`)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{64, 64, 0, 8, 0} {
		if got := steps[i].Resources.DiskMB; got != want {
			t.Errorf("step %s: %d, want %d", steps[i].Name, got, want)
		}
	}
	_, err = compile(t, `[{"name":"a","tool":"test:echo","resources":{"disk_mb":8}},{"name":"b","tool":"test:echo","resources":{"disk_mb":64}}]`)
	var fault *step.Error
	if !errors.As(err, &fault) || len(fault.Fields) != 1 || fault.Fields[0].Location != "body.plan.steps[1].resources.disk_mb" {
		t.Errorf("%v", err)
	}
}
