package wire

import (
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// BreakerRules say when a handler's breakers open and when they try again.
type BreakerRules struct {
	Off           bool         `json:"off,omitempty"` // only an operator opens it
	PerTenant     bool         `json:"per_tenant,omitempty"`
	WindowMS      int64        `json:"window_ms"`
	MinVolume     int          `json:"min_volume"`      // results in the window, before the rate says anything
	Percent       int          `json:"failure_percent"` // 0 = no such rule
	Consecutive   int          `json:"consecutive"`     // failures in a row; 0 = no such rule
	CooldownMS    int64        `json:"cooldown_ms"`
	Growth        float64      `json:"cooldown_growth"`
	MaxCooldownMS int64        `json:"cooldown_max_ms"`
	ProbeMS       int64        `json:"probe_ms"`
	Counts        []step.Cause `json:"counts,omitempty"` // failures of the step itself that count
}

// BreakerInfo is one breaker as it stands.
type BreakerInfo struct {
	Driver     string     `json:"driver"`
	PerTenant  bool       `json:"per_tenant,omitempty"` // of the asking tenant alone
	State      string     `json:"state"`                // closed, open or half_open
	Forced     bool       `json:"forced,omitempty"`     // by an operator, until it is reset
	Reason     string     `json:"reason,omitempty"`
	Generation int64      `json:"generation"`
	Opens      int        `json:"opens,omitempty"`      // since a probe was good
	ReadyAt    *time.Time `json:"ready_at,omitempty"`   // when the next probe may go
	ChangedAt  *time.Time `json:"changed_at,omitempty"` // absent: nothing has happened to it yet
}

// BreakerAction is what an operator does to breakers.
type BreakerAction string

const (
	BreakerReset      BreakerAction = "reset"       // as good as new
	BreakerForceOpen  BreakerAction = "force-open"  // open until it is reset
	BreakerForceClose BreakerAction = "force-close" // closed until it is reset
)

// SetBreaker is the body of POST /api/breakers.
type SetBreaker struct {
	Action BreakerAction `json:"action"`
	Tool   string        `json:"tool"`             // of the handler, with the * of a prefix
	Driver string        `json:"driver,omitempty"` // "" = every driver of the handler, and all that its breakers have met
	Tenant string        `json:"tenant,omitempty"` // whose breaker, where each tenant has one; "" = the one of all tenants
	Reason string        `json:"reason,omitempty"`
}

// BreakersSet is the answer: the drivers whose breakers were set.
type BreakersSet struct {
	Tool    string   `json:"tool"`
	Drivers []string `json:"drivers"`
	State   string   `json:"state"`
}

// BreakerEvents is the answer to GET /api/breakers/events, the newest first.
type BreakerEvents struct {
	Events []BreakerEvent `json:"events"`
}

// BreakerEvent is one change of a breaker.
type BreakerEvent struct {
	Type      step.EventType `json:"type"` // breaker.opened, breaker.half_open or breaker.closed
	Tool      string         `json:"tool"`
	Driver    string         `json:"driver"`
	PerTenant bool           `json:"per_tenant,omitempty"`
	Reason    string         `json:"reason,omitempty"`
	CreatedAt time.Time      `json:"created_at"`
}

// Barrier is a breaker that lets nothing through, as the workers hear of it
// with the answer to a heartbeat: what they have not begun they give back.
type Barrier struct {
	Lane       string `json:"lane"`
	Driver     string `json:"driver"`
	Generation int64  `json:"generation"`
}

// OnOpen says what a step does before a breaker that is open.
type OnOpen string

const (
	OnOpenWait     OnOpen = "wait"
	OnOpenFail     OnOpen = "fail"
	OnOpenFallback OnOpen = "fallback" // to its next driver
)
