package driversanity

import (
	"fmt"
	"slices"
	"strings"
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
	// Unjudged is what the driver declares and no case has seen it keep; empty
	// when only some cases were chosen.
	Unjudged []Gap  `json:"unjudged"`
	Cases    []Case `json:"cases"`
}

// Gap is a capability that was not judged, and why.
type Gap struct {
	Capability string `json:"capability"`
	Reason     string `json:"reason"`
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
const Rule = `A  no case failed, the driver declares net.none, cap.cpu, cap.memory, cap.pids,
   cap.walltime, cap.output, files, lease and reattach, and every cap, network
   and isolation level that it declares was judged
B  no case failed
C  at most 1 in 20 of the cases that were not skipped failed, no essential one
D  at most 1 in 5 failed, no essential one
E  at most 1 in 5 failed
F  more failed
Essential are the groups ending, recovery, caps, network, hostile and process:
there a failure loses a step's end, leaves something running or lets it out.`

// wanted is what a driver with grade A has.
var wanted = driver.Capabilities{
	driver.CapNetNone, driver.CapCPU, driver.CapMemory, driver.CapPids, driver.CapWallTime, driver.CapOutput,
	driver.CapFiles, driver.CapLease, driver.CapReattach,
}

var essential = []suite.Group{suite.GroupEnding, suite.GroupRecovery, suite.GroupCaps, suite.GroupNetwork, suite.GroupHostile, groupProcess}

func newReport(o Options, d driver.Description, results []suite.Result, took time.Duration) Report {
	r := Report{
		Path: o.Path, Driver: d.Name, Version: d.Version, Capabilities: []string{}, Warnings: append([]string{}, d.Warnings...),
		DurationMS: took.Milliseconds(), Unjudged: []Gap{}, Cases: make([]Case, 0, len(results)),
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
		gaps := suite.Gaps(d.Capabilities, results)
		for _, g := range gaps {
			r.Unjudged = append(r.Unjudged, Gap{string(g.Capability), g.Reason})
		}
		r.Grade, r.Reason = grade(d.Capabilities, gaps, r.Passed, r.Failed, grave)
	}
	return r
}

func newCase(r suite.Result) Case {
	return Case{
		Name: r.Name, Group: string(r.Group), Status: string(r.Status), DurationMS: r.Duration.Milliseconds(), Seen: append([]string{}, r.Seen...),
	}
}

// grade follows Rule.
func grade(caps driver.Capabilities, gaps []suite.Gap, passed, failed, grave int) (letter, reason string) {
	ran := passed + failed
	if failed == 0 {
		missing := slices.DeleteFunc(slices.Clone(wanted), caps.Has)
		if len(missing) > 0 {
			return "B", fmt.Sprintf("no case failed; for an A it does not declare %v", []driver.Capability(missing))
		}
		var open []driver.Capability
		for _, g := range gaps {
			if bounds(g.Capability) {
				open = append(open, g.Capability)
			}
		}
		if len(open) > 0 {
			return "B", fmt.Sprintf("no case failed; for an A these are declared and not judged: %v", open)
		}
		return "A", "no case failed, and it declares all that is wanted"
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

// bounds reports whether a capability is a promise of what a step cannot do.
func bounds(c driver.Capability) bool {
	kind, _, _ := strings.Cut(string(c), ".")
	return kind == "cap" || kind == "net" || kind == "isolation"
}
