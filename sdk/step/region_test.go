package step_test

import (
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestValidRegion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"eu-1": true, "e": true, "1": true, "local": true, "eu--1-": true, strings.Repeat("a", 63): true,
		"": false, "-eu": false, "EU": false, "eu_1": false, "eu 1": false, "eu\n": false, "é": false, strings.Repeat("a", 64): false,
	} {
		if got := step.ValidRegion(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
