package driversanity

import (
	"slices"
	"testing"

	"github.com/nofx-run/nofx/sdk/driver"
)

func TestGrade(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		caps                  driver.Capabilities
		passed, failed, grave int
		want                  string
	}{
		{wanted, 60, 0, 0, "A"},
		{wanted[1:], 60, 0, 0, "B"},
		{wanted, 57, 3, 0, "C"},
		{wanted, 56, 4, 0, "D"},
		{wanted, 48, 12, 0, "D"},
		{wanted, 59, 1, 1, "E"},
		{wanted, 47, 13, 0, "F"},
		{nil, 0, 1, 0, "F"},
	} {
		if got, why := grade(c.caps, c.passed, c.failed, c.grave); got != c.want {
			t.Errorf("%d passed, %d failed, %d grave: %s (%s), want %s", c.passed, c.failed, c.grave, got, why, c.want)
		}
	}
}

func TestFill(t *testing.T) {
	t.Parallel()
	got := fill([]string{"p", "{path}", "x={text}!", "{other}"}, "path", "/a b", "text", "{path}")
	if !slices.Equal(got, []string{"p", "/a b", "x={path}!", "{other}"}) {
		t.Errorf("%q", got)
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	if got := clean("a\x1b[31m\x00é\n\xff"); got != "a.[31m.é\n\uFFFD" && got != "a.[31m.é\n." {
		t.Errorf("%q", got)
	}
}
