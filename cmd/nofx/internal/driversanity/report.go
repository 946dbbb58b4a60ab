package driversanity

import (
	"fmt"
	"slices"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/suite"
)

// Report is what was found.
type Report struct {
	Path         string   `json:"path"`
	Driver       string   `json:"driver"`
	Version      string   `json:"version"`
	Capabilities []string `json:"capabilities"`
	Warnings     []string `json:"warnings"`
	Grade        string   `json:"grade,omitempty"` // absent when only some cases were chosen
	Reason       string   `json:"reason,omitempty"`
	Passed       int      `json:"passed"`
	Failed       int      `json:"failed"`
	Skipped      int      `json:"skipped"`
	DurationMS   int64    `json:"duration_ms"`
	Cases        []Case   `json:"cases"`
}

// Case is one case's result.
type Case struct {
	Name       string   `json:"name"`
	Group      string   `json:"group"`
	Status     string   `json:"status"` // passed, failed or skipped
	DurationMS int64    `json:"duration_ms"`
	Seen       []string `json:"seen"`
}

// Rule is how a grade comes about.
const Rule = `A  no case failed, and the driver declares cap.walltime, cap.output, cap.memory,
   cap.pids, files, lease and reattach
B  no case failed
C  at most 1 in 20 of the cases that were not skipped failed, no essential one
D  at most 1 in 5 failed, no essential one
E  at most 1 in 5 failed
F  more failed
Essential are the groups ending, recovery, caps, hostile and process: there a
failure loses a step's end, leaves something running or lets it out.`

// wanted is what a driver with grade A has.
var wanted = driver.Capabilities{
	driver.CapWallTime, driver.CapOutput, driver.CapMemory, driver.CapPids, driver.CapFiles, driver.CapLease, driver.CapReattach,
}

var essential = []suite.Group{suite.GroupEnding, suite.GroupRecovery, suite.GroupCaps, suite.GroupHostile, groupProcess}

func newReport(o Options, d driver.Description, results []suite.Result, took time.Duration) Report {
	r := Report{
		Path: o.Path, Driver: d.Name, Version: d.Version, Capabilities: []string{}, Warnings: append([]string{}, d.Warnings...),
		DurationMS: took.Milliseconds(), Cases: make([]Case, 0, len(results)),
	}
	for _, c := range d.Capabilities {
		r.Capabilities = append(r.Capabilities, string(c))
	}
	grave := 0
	for _, c := range results {
		switch c.Status {
		case suite.Passed:
			r.Passed++
		case suite.Failed:
			r.Failed++
			if slices.Contains(essential, c.Group) {
				grave++
			}
		case suite.Skipped:
			r.Skipped++
		}
		r.Cases = append(r.Cases, newCase(c))
	}
	if o.Only == nil {
		r.Grade, r.Reason = grade(d.Capabilities, r.Passed, r.Failed, grave)
	}
	return r
}

func newCase(r suite.Result) Case {
	return Case{
		Name: r.Name, Group: string(r.Group), Status: string(r.Status), DurationMS: r.Duration.Milliseconds(), Seen: append([]string{}, r.Seen...),
	}
}

// grade follows Rule.
func grade(caps driver.Capabilities, passed, failed, grave int) (letter, reason string) {
	ran := passed + failed
	if failed == 0 {
		missing := slices.DeleteFunc(slices.Clone(wanted), caps.Has)
		if len(missing) == 0 {
			return "A", "no case failed, and it declares all that is wanted"
		}
		return "B", fmt.Sprintf("no case failed; for an A it does not declare %v", []driver.Capability(missing))
	}
	reason = fmt.Sprintf("%d of %d failed, %d of them essential", failed, ran, grave)
	switch {
	case failed*20 <= ran && grave == 0:
		return "C", reason
	case failed*5 <= ran && grave == 0:
		return "D", reason
	case failed*5 <= ran:
		return "E", reason
	}
	return "F", reason
}
