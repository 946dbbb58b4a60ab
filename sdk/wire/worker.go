package wire

import (
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// WorkerProtocol is the version of the worker endpoints, sent in the header
// named WorkerProtocolHeader. The API serves this one and the one before.
const (
	WorkerProtocol       = 1
	WorkerProtocolHeader = "Nofx-Worker-Protocol"
)

// RegisterWorker is the body of POST /api/worker/register, sent at start and
// whenever the daemon's drivers change.
type RegisterWorker struct {
	Name        string       `json:"name"`        // stable for the host, the key of the worker row
	Incarnation string       `json:"incarnation"` // new at each start of the daemon
	Region      string       `json:"region,omitempty"`
	Version     string       `json:"version"`
	Slots       int          `json:"slots"`
	Drivers     []DriverInfo `json:"drivers"`
}

// WorkerRegistered is the answer. The daemon obeys these intervals.
type WorkerRegistered struct {
	WorkerID       string `json:"worker_id"`
	InstallationID string `json:"installation_id"` // goes into the nofx_owner tag
	LeaseMS        int64  `json:"lease_ms"`
	HeartbeatMS    int64  `json:"heartbeat_ms"`
}

// ClaimRequest is the body of POST /api/worker/claims. ClaimID is chosen and
// persisted by the worker before it asks; a repeat with the same id returns
// those of its leases that are still at that epoch, and takes no new ones.
// WaitMS is how long the API may hold an empty answer.
type ClaimRequest struct {
	WorkerID    string   `json:"worker_id"`
	Incarnation string   `json:"incarnation"`
	ClaimID     string   `json:"claim_id"`
	Max         int      `json:"max"`
	WaitMS      int64    `json:"wait_ms"`
	Drivers     []string `json:"drivers"` // healthy ones only
	// Layers says that the worker puts workspaces together of their layers. One
	// that does not say so gets no step of a run that has any, unless the run is
	// bound to it.
	Layers bool `json:"layers,omitempty"`
}

// ClaimResponse hands out leases.
type ClaimResponse struct {
	Leases []Lease `json:"leases"`
}

// Fence identifies one try under one lease. Every write of a worker carries
// it, and the API compares all of it in the UPDATE that makes the change.
type Fence struct {
	AttemptID  string `json:"attempt_id"`
	Generation int    `json:"generation"`
	Attempt    int    `json:"attempt"`
	Epoch      int64  `json:"epoch"`
}

// Lease is everything a worker needs to try a step once.
type Lease struct {
	Fence
	TenantID  string         `json:"tenant_id"`
	RunID     string         `json:"run_id"`
	StepID    string         `json:"step_id"`
	StepName  string         `json:"step_name"`
	Tool      string         `json:"tool"`
	Driver    string         `json:"driver"`
	Command   Command        `json:"command"`
	Image     string         `json:"image,omitempty"`
	Resources step.Resources `json:"resources"` // complete: no field is zero that the driver enforces
	// Defaults are the caps that nobody asked for: names of fields of Resources, and
	// CapTimeout. A worker that gives less of them gives that, where it refuses who
	// asked for more. An older API tells of none.
	Defaults      []string           `json:"defaults,omitempty"`
	OnOutput      step.OutputMode    `json:"on_output_limit"`
	Network       step.Network       `json:"network"`
	Egress        step.Egress        `json:"egress,omitzero"`
	Workspace     step.WorkspaceMode `json:"workspace"`
	TimeoutMS     int64              `json:"timeout_ms"`
	GraceMS       int64              `json:"grace_ms"` // between TERM and KILL
	Artifacts     []string           `json:"artifacts,omitempty"`
	LeaseMS       int64              `json:"lease_ms"` // from when the claim was sent
	CorrelationID string             `json:"correlation_id,omitempty"`
	// Lane is what the step's circuit breaker on its driver stands before, and
	// BreakerGeneration the breaker's when it let the step through.
	Lane              string `json:"lane,omitempty"`
	BreakerGeneration int64  `json:"breaker_generation,omitempty"`
	// WorkspaceNo counts the times that the run was bound to a worker. What a
	// worker has of the run's workspace from an earlier time is old.
	WorkspaceNo int `json:"workspace_no,omitempty"`
	// Layers make the workspace, in their order, for a worker that has it not.
	// LastLayer is the number of the last one that was ever saved.
	Layers    []Layer `json:"layers,omitempty"`
	LastLayer int     `json:"last_layer,omitempty"`
	// Restore has the workspace be made anew, unless another step is at work in
	// it: infrastructure ended the attempt before this one in the middle.
	Restore bool `json:"restore,omitempty"`
	// Snapshot has the workspace be saved when the step has succeeded.
	Snapshot bool `json:"snapshot,omitempty"`
}

// CapTimeout is the step's wall time in Lease.Defaults.
const CapTimeout = "timeout"

// Layer is what a run's workspace was saved as: all of it, or what had changed
// since the layer before.
type Layer struct {
	Seq    int    `json:"seq"` // 1..n within the run
	SHA256 string `json:"sha256,omitempty"`
	Size   int64  `json:"size,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"` // of the files in it
	Full   bool   `json:"full,omitempty"`
}

// Command is what runs in the sandbox, made from the step's inputs by its
// handler's manifest.
type Command struct {
	Argv  []string          `json:"argv"`
	Env   map[string]string `json:"env,omitempty"` // complete: nothing of the host's is added
	Cwd   string            `json:"cwd,omitempty"` // absolute inside the sandbox, below /workspace
	Stdin []byte            `json:"stdin,omitempty"`
	Files []CommandFile     `json:"files,omitempty"` // written before the command starts
	// Isolation is the level that the step demands of its sandbox, "" = the
	// driver's default.
	Isolation string `json:"isolation,omitempty"`
}

// CommandFile is one small file to put into the sandbox.
type CommandFile struct {
	Path string `json:"path"` // relative to the workspace
	Mode uint32 `json:"mode"` // permission bits
	Data []byte `json:"data"`
}

// Heartbeat is the body of POST /api/worker/heartbeat. Held lists every lease
// that the worker still works on; what it does not list is released after a
// grace. The leases are renewed at once; with WaitMS the API may then hold the
// answer until it has something to tell, so that a cancellation arrives at once.
type Heartbeat struct {
	WorkerID    string       `json:"worker_id"`
	Incarnation string       `json:"incarnation"`
	Draining    bool         `json:"draining,omitempty"`
	Held        []Fence      `json:"held"`
	Runs        []string     `json:"runs,omitempty"` // runs whose workspace this worker keeps
	Drivers     []DriverInfo `json:"drivers"`
	Swept       []SweepItem  `json:"swept,omitempty"` // removed since the last heartbeat that was answered, at most MaxSwept
	WaitMS      int64        `json:"wait_ms,omitempty"`
}

// MaxSwept bounds what one heartbeat tells of sweeps.
const MaxSwept = 100

// SweepItem is something on a host that no attempt and no run of its daemon
// has: what it is, why it goes, and what came of it.
type SweepItem struct {
	Kind    string `json:"kind"` // sandbox, cgroup, workspace, process or journal
	Name    string `json:"name"`
	Driver  string `json:"driver,omitempty"` // of a sandbox
	Reason  string `json:"reason"`
	Removed bool   `json:"removed"`
	Error   string `json:"error,omitempty"`
}

// SweepReport is what a sweep found.
type SweepReport struct {
	DryRun bool        `json:"dry_run"` // nothing was removed
	Items  []SweepItem `json:"items"`
	Errors []string    `json:"errors,omitempty"` // where it could not look
}

// HeartbeatAnswer tells the worker which leases were renewed, which to cancel
// and which are no longer its own. Renewed leases last LeaseMS from the
// moment before the heartbeat was sent.
type HeartbeatAnswer struct {
	LeaseMS int64         `json:"lease_ms"`
	Renewed []string      `json:"renewed"` // attempt ids
	Cancel  []CancelOrder `json:"cancel"`
	Closed  []string      `json:"closed"` // attempt ids: kill the sandbox, report nothing
	Ended   []string      `json:"ended"`  // those of Runs that have ended: their workspace can go
	// Barriers are breakers that let nothing through now, MaxBarriers at most.
	Barriers []Barrier `json:"barriers,omitempty"`
}

// MaxBarriers bounds what one answer to a heartbeat tells of breakers.
const MaxBarriers = 500

// CancelOrder asks for TERM, grace, KILL.
type CancelOrder struct {
	AttemptID string `json:"attempt_id"`
	Reason    string `json:"reason"`
	GraceMS   int64  `json:"grace_ms"`
}

// ReleaseRequest is the body of POST /api/worker/release: leases that were
// never started go back to the queue without burning an attempt.
type ReleaseRequest struct {
	WorkerID    string  `json:"worker_id"`
	Incarnation string  `json:"incarnation"`
	Leases      []Fence `json:"leases"`
}

// ReleaseAnswer lists the attempts that went back.
type ReleaseAnswer struct {
	Released []string `json:"released"`
}

// RecordType tells the kinds of journal records.
type RecordType string

const (
	RecordStarted RecordType = "started"
	RecordOutput  RecordType = "output"
	RecordUsage   RecordType = "usage"
	RecordEvent   RecordType = "event"
	RecordVerdict RecordType = "verdict"
)

// Record is one entry of an attempt's journal. N counts 1..n without gaps.
// Exactly one of the bodies is set, by Type. A journal ends in exactly one
// verdict.
type Record struct {
	N       int64          `json:"n"`
	Type    RecordType     `json:"type"`
	At      time.Time      `json:"at"` // the worker's clock, for people only
	Started *StartedRecord `json:"started,omitempty"`
	Output  *OutputRecord  `json:"output,omitempty"`
	Usage   *step.Usage    `json:"usage,omitempty"`
	Event   *EventRecord   `json:"event,omitempty"`
	Verdict *VerdictRecord `json:"verdict,omitempty"`
}

// StartedRecord says that the step's process exists.
type StartedRecord struct {
	Driver        string `json:"driver"`
	DriverVersion string `json:"driver_version"`
	SandboxID     string `json:"sandbox_id"`
}

// OutputRecord is a piece of output at its offset in the attempt's output,
// both streams counted together.
type OutputRecord struct {
	Stream Stream `json:"stream"`
	Offset int64  `json:"offset"`
	Data   []byte `json:"data"`
}

// NoteNotSaved is the name of the event that says that what a step left in its
// run's workspace is not saved: the run stays bound to its worker.
const NoteNotSaved = "workspace.not_saved"

// EventRecord is something worth a line in the timeline.
type EventRecord struct {
	Name    string         `json:"name"`
	Payload map[string]any `json:"payload,omitempty"`
}

// VerdictRecord ends the journal. The artifacts and the layer were uploaded before it.
// Stdout and Stderr are the first bytes of each stream, at most
// MaxVerdictStream each, for the handler's outputs.
type VerdictRecord struct {
	Verdict   step.Verdict    `json:"verdict"`
	Artifacts []step.Artifact `json:"artifacts,omitempty"`
	// Layer is what the run's workspace was saved as after the step. One without
	// a sha256 says that nothing has changed since the layer Seq, or that there is
	// nothing yet (0). nil = it was not saved.
	Layer           *Layer `json:"layer,omitempty"`
	Stdout          []byte `json:"stdout,omitempty"`
	Stderr          []byte `json:"stderr,omitempty"`
	StdoutTruncated bool   `json:"stdout_truncated,omitempty"`
	StderrTruncated bool   `json:"stderr_truncated,omitempty"`
}

// Limits of the worker protocol.
const (
	MaxVerdictStream  = 64 << 10 // bytes of each stream in a verdict
	MaxOutputRecord   = 64 << 10 // bytes of data in one output record
	MaxJournalRequest = 4 << 20  // bytes of one journal request's body
	MaxClaimBatch     = 64
	MaxArtifactBytes  = 1 << 30
)

// JournalRequest is the body of POST /api/worker/journal. With Refusals the
// answer names what cannot be stored, and the rest is stored; without, one bad
// record has the whole request refused with its error.
type JournalRequest struct {
	WorkerID    string         `json:"worker_id"`
	Incarnation string         `json:"incarnation"`
	Batches     []JournalBatch `json:"batches"`
	Refusals    bool           `json:"refusals,omitempty"`
}

// JournalBatch is a run of consecutive records of one attempt.
type JournalBatch struct {
	Fence
	Records []Record `json:"records"`
}

// JournalAnswer acknowledges per attempt the highest contiguous number that
// is stored. Discard lists attempts that the API has closed: the worker drops
// the rest of their journals and kills their sandboxes.
type JournalAnswer struct {
	Acks    []JournalAck     `json:"acks"`
	Discard []string         `json:"discard"` // attempt ids
	Refused []JournalRefusal `json:"refused,omitempty"`
}

// JournalRefusal says that record N of the attempt cannot be stored as it is,
// today or later; what is before it is. Once the bytes of the artifacts named in
// Missing are here, the same record is taken. Else the worker ends the attempt
// with a verdict of its own at N.
type JournalRefusal struct {
	AttemptID string    `json:"attempt_id"`
	N         int64     `json:"n"`
	Kind      step.Kind `json:"kind"`
	Message   string    `json:"message"`
	Missing   []string  `json:"missing,omitempty"` // sha256
}

// JournalAck says that records 1..N of the attempt are stored.
type JournalAck struct {
	AttemptID string `json:"attempt_id"`
	N         int64  `json:"n"`
	Ended     bool   `json:"ended"` // the verdict is stored and applied
	// Saved says that the layer of a verdict in the request counts. A repeat of
	// the request is not told.
	Saved bool `json:"saved,omitempty"`
}
