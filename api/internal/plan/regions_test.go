package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func compilePlan(t *testing.T, plan string) ([]Step, error) {
	t.Helper()
	var p wire.Plan
	if err := json.Unmarshal([]byte(plan), &p); err != nil {
		t.Fatal(err)
	}
	return Compile(t.Context(), p, Catalog{Handlers: shipped(t), Drivers: none{}, Presets: presets(t), Profiles: profiles(t)})
}

// a and b share their run's workspace; c is on a driver that has none there.
func abc(plan, a, b, c string) string {
	return fmt.Sprintf(`{"goal":"g"%s,"steps":[{"name":"a","tool":"test:echo"%s},{"name":"b","tool":"test:echo"%s},{"name":"c","tool":"test:echo","driver":"e2b"%s}]}`, plan, a, b, c)
}

func TestRegions(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		plan string
		want string // the orders of a, b and c
	}{
		"none":                   {abc("", "", "", ""), "[] [] []"},
		"the plan's":             {abc(`,"region":"eu-1"`, "", "", ""), "[eu-1] [eu-1] [eu-1]"},
		"the plan's order":       {abc(`,"regions":["eu-1","us-1"]`, "", "", ""), "[eu-1 us-1] [eu-1 us-1] [eu-1 us-1]"},
		"own comes first":        {abc(`,"regions":["eu-1","us-1"]`, "", "", `,"region":"us-2"`), "[eu-1 us-1] [eu-1 us-1] [us-2]"},
		"who shares goes along":  {abc("", "", `,"regions":["eu-1","us-1"]`, ""), "[eu-1 us-1] [eu-1 us-1] []"},
		"what both may":          {abc("", `,"regions":["x","us-1","eu-1"]`, `,"regions":["eu-1","us-1","y"]`, ""), "[us-1 eu-1] [us-1 eu-1] []"},
		"a workspace of its own": {abc("", `,"region":"eu-1"`, `,"region":"us-1","workspace":"step"`, ""), "[eu-1] [us-1] []"},
	} {
		steps, err := compilePlan(t, tc.plan)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := fmt.Sprint(steps[0].Regions, steps[1].Regions, steps[2].Regions); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

func TestRegionsRefused(t *testing.T) {
	t.Parallel()
	long, many := strings.Repeat("a", 64), `["a0"`
	for i := 1; i <= step.MaxRegions; i++ {
		many += fmt.Sprintf(`,"a%d"`, i)
	}
	many += "]"
	for plan, where := range map[string]string{
		abc(`,"region":"EU"`, "", "", ""):                             "body.plan.region",
		abc(`,"regions":["eu","eu"]`, "", "", ""):                     "body.plan.regions[1]",
		abc(`,"region":"eu","regions":["us"]`, "", "", ""):            "body.plan.region",
		abc("", "", "", `,"region":"-eu"`):                            "body.plan.steps[2].region",
		abc("", "", "", `,"region":"`+long+`"`):                       "body.plan.steps[2].region",
		abc("", "", "", `,"regions":["eu",""]`):                       "body.plan.steps[2].regions[1]",
		abc("", "", "", `,"regions":["eu","us","eu"]`):                "body.plan.steps[2].regions[2]",
		abc("", "", "", `,"regions":`+many):                           "body.plan.steps[2].regions",
		abc("", "", "", `,"region":"eu","regions":["eu"]`):            "body.plan.steps[2].region",
		abc("", `,"region":"eu"`, `,"region":"us"`, ""):               "body.plan.steps[1].region",
		abc("", `,"regions":["eu","us"]`, `,"regions":["x","y"]`, ""): "body.plan.steps[1].regions",
		abc(`,"region":"eu"`, "", `,"region":"us"`, ""):               "body.plan.steps[1].region",
		`{"goal":"g","steps":[{"name":"a","tool":"test:echo","regions":["x","y"]},{"name":"b","tool":"test:echo","regions":["y","z"]},{"name":"c","tool":"test:echo","regions":["x","z"]}]}`: "body.plan.steps[2].regions",
	} {
		_, err := compilePlan(t, plan)
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.KindInvalid || len(e.Fields) != 1 || e.Fields[0].Location != where {
			t.Errorf("%s: %v", plan, err)
		}
	}
	if _, err := compilePlan(t, abc("", `,"region":"eu"`, `,"region":"us"`, "")); err == nil || !strings.Contains(err.Error(), `with "a", for which eu is left`) {
		t.Errorf("%v", err)
	}
}

// A step that is tried again keeps what its plan said for all.
func TestRegionsOfAnotherTry(t *testing.T) {
	t.Parallel()
	have := Catalog{Handlers: shipped(t), Drivers: none{}, Presets: presets(t), Profiles: profiles(t)}
	steps, err := compilePlan(t, abc(`,"regions":["eu-1","us-1"]`, "", "", `,"region":"us-2"`))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]string{{"eu-1", "us-1"}, {"eu-1", "us-1"}, {"us-2"}} {
		again, err := Again(t.Context(), steps[i].Spec, json.RawMessage(`{}`), Change{Driver: "modal"}, have)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, again.Regions); diff != "" {
			t.Error(diff)
		}
	}
}

func TestReside(t *testing.T) {
	t.Parallel()
	steps, err := compilePlan(t, abc(`,"regions":["eu-1","us-1","us-2"]`, `,"regions":["eu-1","us-3"]`, "", `,"region":"us-2"`))
	if err != nil {
		t.Fatal(err)
	}
	var e *step.Error
	if err := Reside(steps, []string{"eu-2", "eu-1"}); !errors.As(err, &e) || e.Kind != step.KindInvalid {
		t.Fatal(err)
	}
	var at []string
	for _, f := range e.Fields {
		at = append(at, f.Location)
	}
	if diff := cmp.Diff([]string{"body.plan.steps[0].regions[1]", "body.plan.regions[1]", "body.plan.regions[2]", "body.plan.steps[2].region"}, at); diff != "" {
		t.Error(diff)
	}
	for _, fine := range [][]string{nil, {"us-3", "us-2", "us-1", "eu-1"}} {
		if err := Reside(steps, fine); err != nil {
			t.Errorf("%v: %v", fine, err)
		}
	}
}

func TestAllowed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		order, residency, want []string
		ok                     bool
	}{
		"anywhere":      {nil, nil, nil, true},
		"the residency": {nil, []string{"b", "a"}, []string{"b", "a"}, true},
		"its own":       {[]string{"b", "a"}, nil, []string{"b", "a"}, true},
		"both":          {[]string{"c", "b", "a"}, []string{"a", "b"}, []string{"b", "a"}, true},
		"neither":       {[]string{"c"}, []string{"a", "b"}, []string{}, false},
	} {
		got, ok := Allowed(tc.order, tc.residency)
		if diff := cmp.Diff(tc.want, got); diff != "" || ok != tc.ok {
			t.Errorf("%s: %v %s", name, ok, diff)
		}
	}
}
