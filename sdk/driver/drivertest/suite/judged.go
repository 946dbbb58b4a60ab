package suite

import (
	"maps"
	"slices"

	"github.com/nofx-run/nofx/sdk/driver"
)

// judges are the cases that tell whether a driver does what it declares, by
// capability: at least one of them must have run.
func judges() map[driver.Capability][]string {
	return map[driver.Capability][]string{
		driver.CapCPU:      {"CPUCap"},
		driver.CapMemory:   {"MemoryCap"},
		driver.CapPids:     {"PidsCap"},
		driver.CapDisk:     {"DiskCap"},
		driver.CapBlockIO:  {"BlockIOCap"},
		driver.CapWallTime: {"Timeout", "TimeoutKillsTheStubborn", "TimeoutKillsTheTree", "TimeoutWithNobodyReading"},
		driver.CapOutput:   {"OutputTruncated", "OutputKills"},

		driver.CapNetNone:   {"NetNone"},
		driver.CapNetAllow:  {"NetAllow"},
		driver.CapNetOpen:   {"NetOpen"},
		driver.CapNetGVisor: {"NetGVisor"},

		driver.CapIsolationNamespace: {"IsolationNamespace"},
		driver.CapIsolationGVisor:    {"IsolationGVisor"},

		driver.CapHost:      {"HostSpec"},
		driver.CapFiles:     {"FilesRoundTrip", "FilesAreVisible"},
		driver.CapTTY:       {"Terminal"},
		driver.CapMultiExec: {"TwoExecsAtOnce"},
		driver.CapReattach:  {"RestartWhileRunning", "KilledBetweenAllCalls"},
		driver.CapLease:     {"LeaseEnds", "LeaseEndsWithNobodyReading"},
		driver.CapStats:     {"Stats"},
	}
}

// unjudgeable are the capabilities that no suite can judge from outside, and why.
func unjudgeable() map[driver.Capability]string {
	return map[driver.Capability]string{
		driver.CapInvoke: "what a function does is the driver's own",
		driver.CapTenant: "it takes a tenant's credentials, which a suite has not",
	}
}

// Capabilities are all that the suite knows, in a stable order.
func Capabilities() driver.Capabilities {
	return slices.Sorted(func(yield func(driver.Capability) bool) {
		for c := range maps.Keys(judges()) {
			if !yield(c) {
				return
			}
		}
		maps.Keys(unjudgeable())(yield)
	})
}

// Gap is a capability that a driver declares and nobody has seen it keep.
type Gap struct {
	Capability driver.Capability
	Reason     string
}

// Gaps are what the results of all cases leave open of what a driver declares.
func Gaps(declared driver.Capabilities, results []Result) []Gap {
	var gaps []Gap
	for _, c := range declared {
		if why, ok := unjudgeable()[c]; ok {
			gaps = append(gaps, Gap{c, why})
			continue
		}
		reason, judged := "the suite has no case for it", false
		for _, name := range judges()[c] {
			i := slices.IndexFunc(results, func(r Result) bool { return r.Name == name })
			switch {
			case i < 0:
				reason = name + " was not run"
			case results[i].Status != Skipped:
				judged = true
			case len(results[i].Seen) > 0:
				reason = results[i].Seen[0]
			}
		}
		if !judged {
			gaps = append(gaps, Gap{c, reason})
		}
	}
	return gaps
}

// unjudged ends a case that cannot tell whether the driver does what it declares.
func unjudged(t T, format string, args ...any) {
	t.Helper()
	t.Skipf("not judged: "+format, args...)
}

// needProgram ends a case whose program is not among those of the factory.
func needProgram(t T, name string, there bool) {
	t.Helper()
	if !there {
		unjudged(t, "there is no program %s to run in the sandbox", name)
	}
}
