package wire

import (
	"encoding/json"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// SubmitRun is the body of POST /api/runs.
type SubmitRun struct {
	Plan      Plan   `json:"plan"`
	ProjectID string `json:"projectId,omitempty"`
}

// Plan is what a run does.
type Plan struct {
	Goal  string     `json:"goal"`
	Steps []PlanStep `json:"steps"`
	// RetryBudget is how many times the run's steps are tried again in all
	// before a person is asked. nil = 100, or the number of steps if that is more.
	RetryBudget *int `json:"retry_budget,omitempty"`
	// Priority is that of the run, and of its steps that have none: of what
	// waits in a tenant's queue the highest goes first. -10 to 10.
	Priority int `json:"priority,omitempty"`
	// StartAt is when the run may begin; DelayMS is the same, counted from when
	// it is accepted. At most one of them.
	StartAt *time.Time `json:"start_at,omitempty"`
	DelayMS int64      `json:"delay_ms,omitempty"`
	// Concurrency bounds how many of the tenant's runs with its key run at once.
	Concurrency *Concurrency `json:"concurrency,omitempty"`
	// Region or Regions are for the steps that name none, as they would there.
	Region  string   `json:"region,omitempty"`
	Regions []string `json:"regions,omitempty"`
}

// Concurrency bounds how many with a key run at once; the others wait. Keys
// are a tenant's own, and those of runs are not those of steps.
type Concurrency struct {
	Key   string `json:"key"`
	Limit int    `json:"limit,omitempty"` // 0 = 1
}

// Bounds of a priority.
const (
	LeastPriority = -10
	MostPriority  = 10
)

// PlanStep is one step of a plan. Inputs is a JSON object; older clients put
// _driver, _resources, _dependsOn and _policy there, with the same meaning as
// the fields here.
type PlanStep struct {
	Name         string             `json:"name"`
	Tool         string             `json:"tool"`
	Inputs       json.RawMessage    `json:"inputs,omitempty"`
	Driver       string             `json:"driver,omitempty"`
	Drivers      []string           `json:"drivers,omitempty"`                           // in order, to go on to while nothing was done
	OnOpen       OnOpen             `json:"on_open,omitempty"`                           // before an open breaker: wait, fail or fallback
	Region       string             `json:"region,omitempty"`                            // where it has to be; "" = anywhere
	Regions      []string           `json:"regions,omitempty"`                           // in place of that, more than one, in order
	Image        string             `json:"image,omitempty"`                             // for drivers that have images; "" = the driver's default
	Isolation    string             `json:"isolation,omitempty" enum:"namespace,gvisor"` // what it demands; "" = the driver's default
	Profile      string             `json:"profile,omitempty"`                           // a named size, for what resources leave open
	Resources    *step.Resources    `json:"resources,omitempty"`
	DependsOn    []string           `json:"depends_on,omitempty"`
	Retry        *Retry             `json:"retry,omitempty"`
	TimeoutMS    int64              `json:"timeout,omitempty"` // milliseconds
	Workspace    step.WorkspaceMode `json:"workspace,omitempty"`
	Network      step.Network       `json:"network,omitempty"`
	NetworkAllow []string           `json:"network_allow,omitempty"` // with network allow: rules and names of presets
	OnOutput     step.OutputMode    `json:"on_output_limit,omitempty"`
	Artifacts    []string           `json:"artifacts,omitempty"`   // paths below the workspace to keep
	Priority     *int               `json:"priority,omitempty"`    // nil = the plan's
	Concurrency  *Concurrency       `json:"concurrency,omitempty"` // of steps
	Idempotent   *bool              `json:"idempotent,omitempty"`  // may be run again after it touched the outside; nil = as its handler says
	ToolsAllowed []string           `json:"tools_allowed,omitempty"`
	EnvAllowed   []string           `json:"env_allowed,omitempty"`
	SecretsScope []string           `json:"secrets_scope,omitempty"`
}

// TenantCeiling is the most that steps of a tenant may ask for. Zero is no
// ceiling.
type TenantCeiling struct {
	step.Resources
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
}

// RunCreated is the answer to POST /api/runs.
type RunCreated struct {
	ID        string         `json:"id"`
	Status    step.RunStatus `json:"status"`
	ProjectID string         `json:"projectId"`
}
