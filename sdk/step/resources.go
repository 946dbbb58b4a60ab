package step

import "math"

// The least that a step can have of what can be had too little of.
const (
	MinCPU    = 0.01 // cores
	MinDiskMB = 8    // MiB
)

// Resources are the caps of one step. Zero means "not asked for": the
// handler's or the daemon's default applies.
type Resources struct {
	CPU      float64 `json:"cpu,omitempty"`       // cores
	MemoryMB int64   `json:"memory_mb,omitempty"` // MiB, swap is off
	Pids     int64   `json:"pids,omitempty"`      // tasks: processes and threads
	DiskMB   int64   `json:"disk_mb,omitempty"`   // MiB of the workspace
	IOMBs    int64   `json:"io_mb_s,omitempty"`   // MiB a second of block device reads, and of writes
	OutputKB int64   `json:"output_kb,omitempty"` // KiB of stdout and stderr together
}

// Merge returns r with the fields that it leaves open taken from def.
func (r Resources) Merge(def Resources) Resources {
	if r.CPU == 0 {
		r.CPU = def.CPU
	}
	if r.MemoryMB == 0 {
		r.MemoryMB = def.MemoryMB
	}
	if r.Pids == 0 {
		r.Pids = def.Pids
	}
	if r.DiskMB == 0 {
		r.DiskMB = def.DiskMB
	}
	if r.IOMBs == 0 {
		r.IOMBs = def.IOMBs
	}
	if r.OutputKB == 0 {
		r.OutputKB = def.OutputKB
	}
	return r
}

// CheckMost refuses resources that cannot be the most that steps get: with less
// of one than a step can have, none would begin. Zero is no bound.
func (r Resources) CheckMost() error {
	if r.CPU != 0 && !(r.CPU >= MinCPU) || math.IsInf(r.CPU, 1) { // NaN is less than nothing
		return Errorf(KindInvalid, "cpu: %v is not %v cores or more; leave it out for no limit", r.CPU, MinCPU)
	}
	if r.DiskMB != 0 && r.DiskMB < MinDiskMB {
		return Errorf(KindInvalid, "disk_mb: %d is not %d or more; leave it out for no limit", r.DiskMB, MinDiskMB)
	}
	for name, n := range map[string]int64{"memory_mb": r.MemoryMB, "pids": r.Pids, "io_mb_s": r.IOMBs, "output_kb": r.OutputKB} {
		if n < 0 {
			return Errorf(KindInvalid, "%s: %d is negative; leave it out for no limit", name, n)
		}
	}
	return nil
}

// OutputMode says what happens to a step that writes more than its cap.
type OutputMode string

const (
	OutputTruncate OutputMode = "truncate" // keep the first bytes, add a marker, let it run
	OutputKill     OutputMode = "kill"     // end the step with CauseOutput
)

// Network is a step's network policy.
type Network string

const (
	NetworkNone  Network = "none"
	NetworkAllow Network = "allow"
	NetworkOpen  Network = "open"
)

// Rank orders networks by how much they let through, from 0 for none and for one
// that is not said; what is no network lets more through than any.
func (n Network) Rank() int {
	switch n {
	case "", NetworkNone:
		return 0
	case NetworkAllow:
		return 1
	case NetworkOpen:
		return 2
	}
	return 3
}

// Egress is whom a step with a network may call.
type Egress struct {
	// Allow are the rules of NetworkAllow, as ParseRule reads them.
	Allow []string `json:"allow,omitempty"`
	// Private are rules with prefixes: what may be called though it is not on
	// the Internet. They are the tenant's, not the step's.
	Private []string `json:"private,omitempty"`
}

// WorkspaceMode says whether a step shares the run's workspace.
type WorkspaceMode string

const (
	WorkspaceRun  WorkspaceMode = "run"
	WorkspaceStep WorkspaceMode = "step"
)
