package onestep

import (
	"math"
	"strconv"
	"strings"

	"github.com/nofx-run/nofx/sdk/step"
)

// suffixes of sizes, the longer ones first.
func suffixes() []struct {
	name string
	n    int64
} {
	return []struct {
		name string
		n    int64
	}{
		{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40},
		{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12},
	}
}

// parseSize reads a size like 256Mi, 1G or 1048576 and gives it in whole
// units. A size between two units is refused, not rounded.
func parseSize(flag, s string, unit int64) (int64, error) {
	number, factor := s, int64(1)
	for _, suffix := range suffixes() {
		if rest, ok := strings.CutSuffix(s, suffix.name); ok {
			number, factor = rest, suffix.n
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/factor {
		return 0, step.Errorf(step.KindInvalid, "%s %s: a size like 512Ki, 256Mi or 1Gi", flag, s)
	}
	if bytes := n * factor; bytes%unit != 0 {
		return 0, step.Errorf(step.KindInvalid, "%s %s: whole multiples of %d bytes only", flag, s, unit)
	}
	return n * factor / unit, nil
}

// ParseSize is parseSize in bytes, for commands that run no step.
func ParseSize(flag, s string) (int64, error) { return parseSize(flag, s, 1) }

// parseCPU reads a number of cores like 0.5 or 500m.
func parseCPU(s string) (float64, error) {
	number, factor := s, 1.0
	if rest, ok := strings.CutSuffix(s, "m"); ok {
		number, factor = rest, 0.001
	}
	v, err := strconv.ParseFloat(number, 64)
	if v *= factor; err != nil || !(v > 0) || math.IsInf(v, 0) {
		return 0, step.Errorf(step.KindInvalid, "--cpu %s: a number of cores like 0.5 or 500m", s)
	}
	return v, nil
}
