package driver

import (
	"context"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nofx-run/nofx/sdk/step"
)

// Metered is for drivers that count what they do; it is optional. The daemon
// asks at each scrape of its metrics and waits for a second at most: what has
// to be looked up is kept, not fetched.
type Metered interface {
	Metrics(ctx context.Context) ([]Sample, error)
}

// Sample is one value of a metric. CheckSamples says what is good.
type Sample struct {
	Name   string // nofx_<driver>_…, with _ for each - of the driver's name
	Kind   SampleKind
	Labels map[string]string
	Value  float64
}

// SampleKind is what a metric's value may do.
type SampleKind string

const (
	Counter SampleKind = "counter" // only grows while the driver's process lives; its name ends in _total
	Gauge   SampleKind = "gauge"
)

// Bounds of what a driver tells of itself.
const (
	MaxSamples      = 200
	MaxSampleLabels = 4
	MaxLabelValue   = 128 // bytes
)

var (
	sampleName = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)
	labelName  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
)

// CheckSamples refuses, as internal, what a driver of that name must not say:
// over a bound, a name that is not its own, a value that is no number, or
// samples that contradict one another.
func CheckSamples(name string, samples []Sample) error {
	if len(samples) > MaxSamples {
		return wrongSample("%d samples; at most %d are taken", len(samples), MaxSamples)
	}
	shapes := map[string]string{}
	seen := map[string]bool{}
	for _, s := range samples {
		if err := s.check(SamplePrefix(name)); err != nil {
			return err
		}
		shape, id := s.shape()
		if old, ok := shapes[s.Name]; ok && old != shape {
			return wrongSample("the samples of %s differ in kind or labels", s.Name)
		}
		if seen[id] {
			return wrongSample("a sample of %s comes twice", s.Name)
		}
		shapes[s.Name], seen[id] = shape, true
	}
	return nil
}

// SamplePrefix is how the names of a driver's samples begin.
func SamplePrefix(name string) string { return "nofx_" + strings.ReplaceAll(name, "-", "_") + "_" }

func (s Sample) check(prefix string) error {
	switch {
	case !sampleName.MatchString(s.Name) || !strings.HasPrefix(s.Name, prefix) || s.Name == prefix:
		return wrongSample("the name %.80q; %s… is this driver's", s.Name, prefix)
	case s.Kind != Counter && s.Kind != Gauge:
		return wrongSample("%s: the kind %.40q is neither counter nor gauge", s.Name, s.Kind)
	case s.Kind == Counter != strings.HasSuffix(s.Name, "_total"):
		return wrongSample("%s: the names of counters, and no others, end in _total", s.Name)
	case math.IsNaN(s.Value) || math.IsInf(s.Value, 0) || s.Kind == Counter && s.Value < 0:
		return wrongSample("%s: the value %v", s.Name, s.Value)
	case len(s.Labels) > MaxSampleLabels:
		return wrongSample("%s: %d labels; at most %d are taken", s.Name, len(s.Labels), MaxSampleLabels)
	}
	for name, value := range s.Labels {
		if !labelName.MatchString(name) || name == "driver" {
			return wrongSample("%s: the label %.80q", s.Name, name)
		}
		if len(value) > MaxLabelValue || !utf8.ValidString(value) {
			return wrongSample("%s: the value of label %s: %d bytes", s.Name, name, len(value))
		}
	}
	return nil
}

// shape is what all samples of a name have in common, and id what no two have.
func (s Sample) shape() (shape, id string) {
	names := make([]string, 0, len(s.Labels))
	for name := range s.Labels {
		names = append(names, name)
	}
	slices.Sort(names)
	id = s.Name
	for _, name := range names {
		id += "\x00" + name + "\x00" + s.Labels[name]
	}
	return string(s.Kind) + " " + strings.Join(names, " "), id
}

func wrongSample(format string, args ...any) error {
	return step.Errorf(step.KindInternal, "the driver's metrics: "+format, args...)
}
