package driversanity

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/suite"
)

func TestGrade(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		caps                  driver.Capabilities
		gap                   driver.Capability
		passed, failed, grave int
		want                  string
	}{
		{wanted, "", 60, 0, 0, "A"},
		{wanted[1:], "", 60, 0, 0, "B"},
		{wanted, driver.CapTenant, 60, 0, 0, "A"},
		{wanted, driver.CapBlockIO, 60, 0, 0, "B"},
		{wanted, driver.CapNetOpen, 60, 0, 0, "B"},
		{wanted, driver.CapIsolationGVisor, 60, 0, 0, "B"},
		{wanted, "", 57, 3, 0, "C"},
		{wanted, "", 56, 4, 0, "D"},
		{wanted, "", 48, 12, 0, "D"},
		{wanted, "", 59, 1, 1, "E"},
		{wanted, "", 47, 13, 0, "F"},
		{nil, "", 0, 1, 0, "F"},
	} {
		var gaps []suite.Gap
		if c.gap != "" {
			gaps = []suite.Gap{{Capability: c.gap, Reason: "nobody looked"}}
		}
		if got, why := grade(c.caps, gaps, c.passed, c.failed, c.grave); got != c.want {
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

// What is declared and was not judged is told, if every case was to run.
func TestReportTellsWhatIsNotJudged(t *testing.T) {
	t.Parallel()
	d := driver.Description{Name: "x", Capabilities: append(slices.Clone(wanted), driver.CapNetOpen)}
	results := []suite.Result{{Name: "NetOpen", Status: suite.Skipped, Seen: []string{"not judged: no network"}}}
	for _, c := range []string{"NetNone", "CPUCap", "MemoryCap", "PidsCap", "Timeout", "OutputKills", "FilesRoundTrip", "LeaseEnds", "RestartWhileRunning"} {
		results = append(results, suite.Result{Name: c, Status: suite.Passed})
	}
	r := newReport(Options{}, d, results, 0)
	if want := []Gap{{"net.open", "not judged: no network"}}; !slices.Equal(r.Unjudged, want) || r.Grade != "B" || !strings.Contains(r.Reason, "net.open") {
		t.Errorf("grade %s: %s; %+v", r.Grade, r.Reason, r.Unjudged)
	}
	var junit strings.Builder
	if err := r.JUnit(&junit); err != nil || !strings.Contains(junit.String(), `name="unjudged.net.open" value="not judged: no network"`) {
		t.Errorf("%v: %s", err, &junit)
	}
	results[0].Status = suite.Passed
	if r := newReport(Options{}, d, results, 0); r.Grade != "A" || len(r.Unjudged) != 0 {
		t.Errorf("grade %s: %s; %+v", r.Grade, r.Reason, r.Unjudged)
	}
	if r := newReport(Options{Only: regexp.MustCompile("x")}, d, results[1:], 0); r.Grade != "" || len(r.Unjudged) != 0 {
		t.Errorf("of some cases: %+v", r)
	}
}
