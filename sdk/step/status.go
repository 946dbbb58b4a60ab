package step

// RunStatus is the state of a run. Terminal states never change within one
// generation of a run's steps.
type RunStatus string

const (
	RunQueued    RunStatus = "queued"
	RunRunning   RunStatus = "running"
	RunBlocked   RunStatus = "blocked"
	RunSucceeded RunStatus = "succeeded"
	RunFailed    RunStatus = "failed"
	RunCancelled RunStatus = "cancelled"
)

// Terminal reports whether no further change follows without a new generation.
func (s RunStatus) Terminal() bool {
	return s == RunSucceeded || s == RunFailed || s == RunCancelled
}

// Status is the state of a step.
type Status string

const (
	StepWaiting   Status = "waiting"
	StepQueued    Status = "queued"
	StepRunning   Status = "running"
	StepSucceeded Status = "succeeded"
	StepFailed    Status = "failed"
	StepTimedOut  Status = "timed_out"
	StepCancelled Status = "cancelled"
)

// Terminal reports whether the step has ended in its generation.
func (s Status) Terminal() bool {
	switch s {
	case StepSucceeded, StepFailed, StepTimedOut, StepCancelled:
		return true
	}
	return false
}

// GateStatus is the state of an approval.
type GateStatus string

const (
	GatePending GateStatus = "pending"
	GatePassed  GateStatus = "passed"
	GateFailed  GateStatus = "failed"
	GateWaived  GateStatus = "waived"
)
