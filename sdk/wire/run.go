package wire

import (
	"encoding/json"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// RunSummary is one row of a run listing. Title is the plan's goal.
type RunSummary struct {
	ID        string         `json:"id"`
	Status    step.RunStatus `json:"status"`
	Title     string         `json:"title"`
	CreatedAt time.Time      `json:"created_at"`
	ProjectID string         `json:"projectId,omitempty"`
	EndedAt   *time.Time     `json:"ended_at,omitempty"`
	// Of one run, not of a list. WaitingFor is why it has not been let begin, in
	// words; StartAt is the time that it waits for.
	Priority   int        `json:"priority,omitempty"`
	WaitingFor string     `json:"waiting_for,omitempty"`
	StartAt    *time.Time `json:"start_at,omitempty"`
}

// RunList is the answer to GET /runs. NextCursor is empty on the last page.
type RunList struct {
	Runs       []RunSummary `json:"runs"`
	NextCursor string       `json:"next_cursor,omitempty"`
}

// RunDetail is the answer to GET /runs/{id}.
type RunDetail struct {
	Run       RunSummary     `json:"run"`
	Steps     []StepDetail   `json:"steps"`
	Artifacts []ArtifactInfo `json:"artifacts"`
}

// StepDetail is one step of a run as it stands.
type StepDetail struct {
	ID             string          `json:"id"`
	Name           string          `json:"name"`
	Tool           string          `json:"tool"`
	Driver         string          `json:"driver"`
	Status         step.Status     `json:"status"`
	Generation     int             `json:"generation"`
	Attempt        int             `json:"attempt"` // of the newest attempt; 0 = none yet
	Priority       int             `json:"priority,omitempty"`
	WaitingFor     string          `json:"waiting_for,omitempty"` // why a queued step does not begin, in words; "" = nothing but its turn
	Drivers        []string        `json:"drivers,omitempty"`     // in order, where there is more than one
	Fallback       string          `json:"fallback,omitempty"`    // why it is not on the first of them
	Region         string          `json:"region,omitempty"`      // where its newest attempt was, or where it is placed; "" = anywhere
	Regions        []string        `json:"regions,omitempty"`     // where it may be, in order; none = anywhere
	Resources      step.Resources  `json:"resources"`             // that hold for it: asked for, or by default, within its tenant's ceilings
	TimeoutMS      int64           `json:"timeout"`               // likewise, in milliseconds
	DependsOn      []string        `json:"depends_on"`
	Inputs         json.RawMessage `json:"inputs"`
	Outputs        json.RawMessage `json:"outputs,omitempty"`
	Verdict        *step.Verdict   `json:"verdict,omitempty"`
	IdempotencyKey string          `json:"idempotency_key"`
	CreatedAt      time.Time       `json:"created_at"`
	StartedAt      *time.Time      `json:"started_at,omitempty"`
	EndedAt        *time.Time      `json:"ended_at,omitempty"`
}

// ArtifactInfo is one stored artifact. Path is below /artifacts/.
type ArtifactInfo struct {
	Path      string    `json:"path"` // runs/{runId}/steps/{stepId}/{name}
	RunID     string    `json:"run_id"`
	StepID    string    `json:"step_id"`
	StepName  string    `json:"step_name"`
	Name      string    `json:"name"`
	SHA256    string    `json:"sha256"`
	Size      int64     `json:"size"`
	CreatedAt time.Time `json:"created_at"`
	// RemovedAt is when its bytes were, since the tenant's time for them was over.
	RemovedAt *time.Time `json:"removed_at,omitempty"`
}

// OutputChunk is one piece of a step's output. Offset counts bytes over both
// streams together, from 0.
type OutputChunk struct {
	StepID   string `json:"step_id"`
	StepName string `json:"step_name"`
	Attempt  int    `json:"attempt"`
	Offset   int64  `json:"offset"`
	Stream   Stream `json:"stream"`
	Data     []byte `json:"data"` // base64 in JSON
}

// OutputPage is the answer to GET /runs/{id}/steps/{sid}/output?offset=N.
// Done is true when the attempt has ended and nothing follows NextOffset.
type OutputPage struct {
	Chunks     []OutputChunk `json:"chunks"`
	NextOffset int64         `json:"next_offset"`
	Attempt    int           `json:"attempt"`
	Done       bool          `json:"done"`
}

// Stream tells stdout from stderr.
type Stream string

const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// CancelResult is the answer to POST /runs/{id}/cancel.
type CancelResult struct {
	ID     string         `json:"id"`
	Status step.RunStatus `json:"status"`
}

// HandlerInfo is one tool that steps can name.
type HandlerInfo struct {
	Tool          string          `json:"tool"`
	Description   string          `json:"description"`
	DefaultDriver string          `json:"default_driver"`
	Drivers       []string        `json:"drivers,omitempty"` // in order, when a step may go to others
	Breaker       BreakerRules    `json:"breaker"`
	Breakers      []BreakerInfo   `json:"breakers"`          // one for each driver that it has met, and the default one
	Profile       string          `json:"profile,omitempty"` // the named size that it begins from
	Resources     step.Resources  `json:"resources"`
	TimeoutMS     int64           `json:"timeout_ms"`
	Retry         *Retry          `json:"retry,omitempty"` // for what a step leaves open
	Idempotent    bool            `json:"idempotent,omitempty"`
	Inputs        json.RawMessage `json:"inputs_schema"`
}

// HandlerList is the answer to GET /api/handlers.
type HandlerList struct {
	Handlers []HandlerInfo `json:"handlers"`
}

// WorkerInfo is one worker host as the API sees it.
type WorkerInfo struct {
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	Status      string       `json:"status"` // live, draining or lost
	Region      string       `json:"region"`
	Version     string       `json:"version"`
	Incarnation string       `json:"incarnation"`
	Slots       int          `json:"slots"`
	Held        int          `json:"held"`
	LastSeen    time.Time    `json:"last_seen"`
	Drivers     []DriverInfo `json:"drivers"`
}

// WorkerList is the answer to GET /api/workers.
type WorkerList struct {
	Workers []WorkerInfo `json:"workers"`
}

// DriverInfo is one driver as a worker reports it.
type DriverInfo struct {
	Name         string   `json:"name"`
	Version      string   `json:"version"`
	Protocol     int      `json:"protocol,omitempty"` // the version that plugin and daemon settled on; 0 = none runs
	Healthy      bool     `json:"healthy"`
	Message      string   `json:"message,omitempty"` // why not healthy, or a warning
	Full         bool     `json:"full,omitempty"`    // the worker's disk is, so that nothing new begins there, on any driver
	Refused      string   `json:"refused,omitempty"` // the reason in a word when the daemon does not run this plugin: unsigned, swapped, …
	Capabilities []string `json:"capabilities"`
	Region       string   `json:"region,omitempty"` // where its sandboxes are; "" = that of the worker
}

// UsageReport is the answer to GET /api/usage: what the tenant's attempts used
// that ended from Since on and before Until.
type UsageReport struct {
	Since time.Time  `json:"since"`
	Until time.Time  `json:"until"`
	Rows  []UsageRow `json:"rows"` // by tool, then driver
	Total UsageSum   `json:"total"`
	Month MonthUsage `json:"month"` // the current one, whatever the span
}

// MonthUsage is what a tenant was charged in a month (UTC), and its quota.
// Compute time is wall time times the cores that a step asked for; what
// infrastructure lost is not charged.
type MonthUsage struct {
	Month             string    `json:"month"`   // such as 2026-11
	EndsAt            time.Time `json:"ends_at"` // when the next one begins
	ComputeMinutes    float64   `json:"compute_minutes"`
	MaxComputeMinutes *float64  `json:"max_compute_minutes_per_month,omitempty"` // none = not bounded
}

// UsageRow is the use of one tool on one driver.
type UsageRow struct {
	Tool   string `json:"tool"`
	Driver string `json:"driver"`
	UsageSum
}

// UsageSum adds up attempts; of memory it has the highest peak.
type UsageSum struct {
	Attempts        int64 `json:"attempts"`
	Lost            int64 `json:"lost"` // of them, whose use nobody knows
	WallMS          int64 `json:"wall_ms"`
	CPUUsec         int64 `json:"cpu_usec"`
	MemoryPeakBytes int64 `json:"memory_peak_bytes"`
	IOReadBytes     int64 `json:"io_read_bytes"`
	IOWriteBytes    int64 `json:"io_write_bytes"`
	NetRxBytes      int64 `json:"net_rx_bytes"`
	NetTxBytes      int64 `json:"net_tx_bytes"`
	OutputBytes     int64 `json:"output_bytes"`
}

// Add adds another sum.
func (u *UsageSum) Add(o UsageSum) {
	u.Attempts += o.Attempts
	u.Lost += o.Lost
	u.WallMS += o.WallMS
	u.CPUUsec += o.CPUUsec
	u.MemoryPeakBytes = max(u.MemoryPeakBytes, o.MemoryPeakBytes)
	u.IOReadBytes += o.IOReadBytes
	u.IOWriteBytes += o.IOWriteBytes
	u.NetRxBytes += o.NetRxBytes
	u.NetTxBytes += o.NetTxBytes
	u.OutputBytes += o.OutputBytes
}

// WorkerEvents is the answer to GET /api/workers/events, the newest first.
type WorkerEvents struct {
	Events []WorkerEvent `json:"events"`
}

// WorkerEvent is one change that operators of worker hosts want to know about.
type WorkerEvent struct {
	Type      step.EventType `json:"type"` // worker.… or driver.…
	WorkerID  string         `json:"worker_id"`
	Worker    string         `json:"worker"`
	Driver    string         `json:"driver,omitempty"`
	Message   string         `json:"message,omitempty"`
	CreatedAt time.Time      `json:"created_at"`
}

// Health is the answer to GET /health.
type Health struct {
	Status  string            `json:"status"` // ok or unavailable
	Live    bool              `json:"live"`
	Ready   bool              `json:"ready"`
	Version string            `json:"version"`
	Checks  map[string]string `json:"checks"` // name → ok, or what is wrong
}
