package driver

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestCheckSamples(t *testing.T) {
	t.Parallel()
	good := func() Sample {
		return Sample{Name: "nofx_my_box_made_total", Kind: Counter, Labels: map[string]string{"how": "well"}, Value: 3}
	}
	with := func(f func(*Sample)) Sample {
		s := good()
		f(&s)
		return s
	}
	many := func(n int) (all []Sample) {
		for i := range n {
			all = append(all, with(func(s *Sample) { s.Labels = map[string]string{"n": strconv.Itoa(i)} }))
		}
		return all
	}
	gauge := Sample{Name: "nofx_my_box_now", Kind: Gauge, Value: -1}
	for what, samples := range map[string][]Sample{
		"none": nil, "one": {good()}, "a gauge": {gauge, good()}, "as many as may be": many(MaxSamples),
		"two of a name": {good(), with(func(s *Sample) { s.Labels = map[string]string{"how": "badly"} })},
		"the longest":   {with(func(s *Sample) { s.Name = "nofx_my_box_" + strings.Repeat("x", 46) + "_total" })},
	} {
		if err := CheckSamples("my-box", samples); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, samples := range map[string][]Sample{
		"too many":           many(MaxSamples + 1),
		"another's name":     {with(func(s *Sample) { s.Name = "nofx_local_made_total" })},
		"the daemon's name":  {with(func(s *Sample) { s.Name = "nofx_daemon_claims_total" })},
		"nothing but prefix": {{Name: "nofx_my_box_", Kind: Gauge}},
		"a long name":        {with(func(s *Sample) { s.Name = "nofx_my_box_" + strings.Repeat("x", 47) + "_total" })},
		"capitals":           {{Name: "nofx_my_box_Now", Kind: Gauge}},
		"a line feed":        {{Name: "nofx_my_box_now\n", Kind: Gauge}},
		"no kind":            {{Name: "nofx_my_box_now"}},
		"a counter's name":   {with(func(s *Sample) { s.Kind = Gauge })},
		"a gauge's name":     {{Name: "nofx_my_box_now", Kind: Counter}},
		"no number":          {with(func(s *Sample) { s.Value = math.NaN() })},
		"infinity":           {{Name: "nofx_my_box_now", Kind: Gauge, Value: math.Inf(1)}},
		"less than none":     {with(func(s *Sample) { s.Value = -1 })},
		"five labels":        {with(func(s *Sample) { s.Labels = map[string]string{"a": "", "b": "", "c": "", "d": "", "e": ""} })},
		"the daemon's label": {with(func(s *Sample) { s.Labels = map[string]string{"driver": "local"} })},
		"a reserved label":   {with(func(s *Sample) { s.Labels = map[string]string{"__name__": "x"} })},
		"a long value":       {with(func(s *Sample) { s.Labels = map[string]string{"how": strings.Repeat("x", MaxLabelValue+1)} })},
		"bytes":              {with(func(s *Sample) { s.Labels = map[string]string{"how": "\xff"} })},
		"the same twice":     {good(), good()},
		"other labels":       {good(), with(func(s *Sample) { s.Labels = nil })},
	} {
		if err := CheckSamples("my-box", samples); !step.Is(err, step.KindInternal) {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}
}
