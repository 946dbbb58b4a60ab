package step

import "fmt"

// Cause says why an attempt ended. The values are stable and machine-readable.
type Cause string

const (
	CauseExit        Cause = "exit"         // the main process exited by itself; see ExitCode
	CauseSignal      Cause = "signal"       // the main process died of a signal that nobody of ours sent; see Signal
	CauseTimeout     Cause = "timeout"      // the wall time passed
	CauseOOM         Cause = "oom"          // the kernel's memory controller killed it
	CausePids        Cause = "pids"         // it ran into its process limit and failed
	CauseDisk        Cause = "disk"         // it ran into its disk limit
	CauseOutput      Cause = "output"       // it wrote more than allowed and asked to be killed for it
	CauseCancelled   Cause = "cancelled"    // a person or the system asked for it
	CausePolicy      Cause = "policy"       // refused before or while it ran
	CauseDriverError Cause = "driver_error" // the driver could not do its part
	CauseLost        Cause = "lost"         // nobody can say what became of it
)

// Infrastructure reports whether the cause is ours rather than the step's.
func (c Cause) Infrastructure() bool { return c == CauseDriverError || c == CauseLost }

// Valid reports whether c is one of the causes above.
func (c Cause) Valid() bool {
	switch c {
	case CauseExit, CauseSignal, CauseTimeout, CauseOOM, CausePids, CauseDisk, CauseOutput,
		CauseCancelled, CausePolicy, CauseDriverError, CauseLost:
		return true
	}
	return false
}

// Who attests a verdict.
const (
	AttestedKernel = "kernel" // read from the kernel by our supervisor or daemon
	AttestedVendor = "vendor" // read from the vendor's API
	AttestedGuest  = "guest"  // only the guest's own word
)

// Verdict is the single terminal record of an attempt.
type Verdict struct {
	Cause    Cause  `json:"cause"`
	ExitCode *int   `json:"exit_code,omitempty"` // only with CauseExit
	Signal   string `json:"signal,omitempty"`    // like "SIGKILL", only with CauseSignal
	Attested string `json:"attested"`            // kernel, vendor or guest
	Message  string `json:"message,omitempty"`   // one line for people, no secrets
	// ErrorKind is the kind of the driver's error, with causes of
	// infrastructure. "" = none, or not known.
	ErrorKind Kind   `json:"error_kind,omitempty"`
	Usage     Usage  `json:"usage"`
	Output    Output `json:"output"`
	// RetryAfterMS is how long the driver asked to be left alone, only with
	// CauseDriverError: the next attempt waits at least as long.
	RetryAfterMS int64 `json:"retry_after_ms,omitempty"`
}

// Success reports whether the attempt did what it was asked: exit code 0.
func (v Verdict) Success() bool {
	return v.Cause == CauseExit && v.ExitCode != nil && *v.ExitCode == 0
}

// String gives the verdict in a few words, such as "exit 7" or "signal SIGSEGV".
func (v Verdict) String() string {
	switch {
	case v.Cause == CauseExit && v.ExitCode != nil:
		return fmt.Sprintf("exit %d", *v.ExitCode)
	case v.Cause == CauseSignal:
		return "signal " + v.Signal
	}
	return string(v.Cause)
}

// StepStatus is the step status that this verdict leads to when the step is
// not tried again.
func (v Verdict) StepStatus() Status {
	switch {
	case v.Success():
		return StepSucceeded
	case v.Cause == CauseTimeout:
		return StepTimedOut
	case v.Cause == CauseCancelled:
		return StepCancelled
	}
	return StepFailed
}

// Usage is what an attempt consumed. Zero means not known or nothing.
type Usage struct {
	WallMS          int64 `json:"wall_ms"`
	CPUUsec         int64 `json:"cpu_usec"`
	MemoryPeakBytes int64 `json:"memory_peak_bytes"`
	PidsPeak        int64 `json:"pids_peak"`
	IOReadBytes     int64 `json:"io_read_bytes"`
	IOWriteBytes    int64 `json:"io_write_bytes"`
	DiskBytes       int64 `json:"disk_bytes"`   // the most that the workspace was seen to hold
	NetRxBytes      int64 `json:"net_rx_bytes"` // of payload, from outside
	NetTxBytes      int64 `json:"net_tx_bytes"`
	OutputBytes     int64 `json:"output_bytes"` // written by the step, before truncation
}

// Output says how much output there was and whether all of it was kept.
type Output struct {
	StoredBytes int64 `json:"stored_bytes"`
	TotalBytes  int64 `json:"total_bytes"`
	Truncated   bool  `json:"truncated"`
}

// Artifact is one file that an attempt left behind.
type Artifact struct {
	Name   string `json:"name"`   // relative slash path, unique in the step
	SHA256 string `json:"sha256"` // 64 hex digits
	Size   int64  `json:"size"`   // bytes
}
