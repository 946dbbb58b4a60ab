package wire

import (
	"encoding/json"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// States of an entry in the DLQ. It is kept when it is resolved.
const (
	DeadOpen      = "open"
	DeadRequeued  = "requeued"
	DeadDiscarded = "discarded"
)

// DeadStep is an entry in the DLQ: one generation of a step that is not tried
// again by itself.
type DeadStep struct {
	ID         string     `json:"id"`
	RunID      string     `json:"run_id"`
	StepID     string     `json:"step_id"`
	StepName   string     `json:"step_name"`
	Generation int        `json:"generation"`
	Tool       string     `json:"tool"`
	Driver     string     `json:"driver"`
	WorkerID   string     `json:"worker_id,omitempty"` // of the last attempt
	Cause      step.Cause `json:"cause"`
	Reason     string     `json:"reason"` // why it is not tried again, in words
	Attempts   int        `json:"attempts"`
	State      string     `json:"state"` // open, requeued or discarded
	CreatedAt  time.Time  `json:"created_at"`
	ResolvedAt *time.Time `json:"resolved_at,omitempty"`
	ResolvedBy string     `json:"resolved_by,omitempty"` // the id of the key
}

// DeadStepDetail is an entry with what it takes to see what happened.
type DeadStepDetail struct {
	DeadStep
	Inputs  json.RawMessage `json:"inputs"`
	History []DeadAttempt   `json:"history"`
}

// DeadAttempt is one attempt in the history of an entry.
type DeadAttempt struct {
	Attempt       int           `json:"attempt"`
	WorkerID      string        `json:"worker_id,omitempty"`
	Driver        string        `json:"driver,omitempty"`
	Region        string        `json:"region,omitempty"`
	Fallback      string        `json:"fallback,omitempty"` // why it was not on the step's first driver
	DriverVersion string        `json:"driver_version,omitempty"`
	ClaimedAt     *time.Time    `json:"claimed_at,omitempty"`
	StartedAt     *time.Time    `json:"started_at,omitempty"`
	EndedAt       *time.Time    `json:"ended_at,omitempty"`
	Verdict       *step.Verdict `json:"verdict,omitempty"`
}

// DeadList is the answer to GET /api/dlq, the newest first. NextCursor is empty
// on the last page.
type DeadList struct {
	Entries    []DeadStep `json:"entries"`
	NextCursor string     `json:"next_cursor,omitempty"`
}

// DeadFilter chooses entries. What is empty matches all.
type DeadFilter struct {
	Tool   string     `json:"tool,omitempty"`
	Cause  step.Cause `json:"cause,omitempty"`
	Driver string     `json:"driver,omitempty"`
	Since  time.Time  `json:"since,omitzero"` // made then or later
	State  string     `json:"state,omitempty"`
}

// RequeueDead is the body of POST /api/dlq/{id}/requeue; none at all asks for
// nothing else than the same again.
type RequeueDead struct {
	Inputs json.RawMessage `json:"inputs,omitempty"` // in the place of the step's
	Driver string          `json:"driver,omitempty"` // in the place of the step's
}

// ResolveMany is the body of POST /api/dlq/requeue and /api/dlq/discard: of
// open entries those with these ids, or those that match.
type ResolveMany struct {
	IDs    []string    `json:"ids,omitempty"`    // at most MaxResolve
	Match  *DeadFilter `json:"match,omitempty"`  // an empty one is all
	Cursor string      `json:"cursor,omitempty"` // with match: on from there
	Driver string      `json:"driver,omitempty"`
	DryRun bool        `json:"dry_run,omitempty"` // tells what would happen, and does nothing
}

// MaxResolve bounds what one request resolves.
const MaxResolve = 100

// Resolved is what became of entries.
type Resolved struct {
	DryRun  bool         `json:"dry_run,omitempty"`
	Done    []string     `json:"done"` // ids
	Refused []RefusedOne `json:"refused"`
	More    bool         `json:"more"` // others match: ask again, from NextCursor on
	// NextCursor goes on behind these entries, also those that were refused and
	// would be refused again.
	NextCursor string `json:"next_cursor,omitempty"`
}

// RefusedOne is an entry that could not be resolved.
type RefusedOne struct {
	ID      string `json:"id"`
	Message string `json:"message"`
}

// RetryRun is the body of POST /api/runs/{id}/retry; none at all retries what
// did not succeed.
type RetryRun struct {
	All bool `json:"all,omitempty"` // run every step again, also those that succeeded
}

// Reopened is the answer to a retry: a new generation of these steps.
type Reopened struct {
	RunID  string         `json:"run_id"`
	Status step.RunStatus `json:"status"`
	Steps  []ReopenedStep `json:"steps"`
	// Refused are the other steps of the run that did not succeed, and why they
	// are not tried again; only where the run was asked for, not one step.
	Refused []RefusedOne `json:"refused,omitempty"`
}

// ReopenedStep is a step in its new generation.
type ReopenedStep struct {
	ID         string      `json:"id"`
	Name       string      `json:"name"`
	Status     step.Status `json:"status"` // queued, or waiting for others
	Generation int         `json:"generation"`
}
