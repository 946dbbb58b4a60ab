package wire

import "time"

// AlertList is the answer to GET /api/alerts.
type AlertList struct {
	Rules     []AlertRule     `json:"rules"`     // by name
	Alerts    []Alert         `json:"alerts"`    // the newest first
	Receivers []AlertReceiver `json:"receivers"` // by name
}

// AlertRule is a rule as of the last look at it. It begins an episode when its
// value has been above Above for ForSeconds, and ends it at Below or less.
type AlertRule struct {
	Name          string     `json:"name"`
	Metric        string     `json:"metric"`
	Above         float64    `json:"above"`
	Below         float64    `json:"below"`
	ForSeconds    int        `json:"for_seconds"`
	Value         *float64   `json:"value,omitempty"` // none before the first look
	SeenAt        *time.Time `json:"seen_at,omitempty"`
	Since         *time.Time `json:"since,omitempty"`    // it has held from then on
	AlertID       string     `json:"alert_id,omitempty"` // of the open episode
	SilencedUntil *time.Time `json:"silenced_until,omitempty"`
}

// Alert is one episode of a rule.
type Alert struct {
	ID         string     `json:"id"`
	Rule       string     `json:"rule"`
	Metric     string     `json:"metric"`
	Above      float64    `json:"above"`
	Value      float64    `json:"value"` // when it began
	Peak       float64    `json:"peak"`
	OpenedAt   time.Time  `json:"opened_at"`
	ResolvedAt *time.Time `json:"resolved_at,omitempty"`
}

// AlertReceiver is who is told.
type AlertReceiver struct {
	Name       string     `json:"name"`
	Kind       string     `json:"kind"` // slack or webhook
	Host       string     `json:"host"`
	Last       string     `json:"last,omitempty"`        // what became of the last message
	DisabledAt *time.Time `json:"disabled_at,omitempty"` // it said that it is gone
}

// SilenceAlert is the body of POST /api/alerts/rules/{rule}/silence.
type SilenceAlert struct {
	Minutes int `json:"minutes" minimum:"0" maximum:"43200" doc:"no episode begins for so long; 0 ends the silence"`
}

// AlertTest is the answer to POST /api/alerts/receivers/{receiver}/test.
type AlertTest struct {
	MessageID string `json:"message_id"`
}
