package step

import "time"

// EventType names a change that somebody may want to know about.
type EventType string

const (
	EventRunCreated   EventType = "run.created"
	EventRunStarted   EventType = "run.started"
	EventRunSucceeded EventType = "run.succeeded"
	EventRunFailed    EventType = "run.failed"
	EventRunCancelled EventType = "run.cancelled"
	EventRunBlocked   EventType = "run.blocked"
	EventRunResumed   EventType = "run.resumed"
	EventRunMoved     EventType = "run.moved" // goes on elsewhere, from the last layer of its workspace

	EventStepEnqueued  EventType = "step.enqueued"
	EventStepStarted   EventType = "step.started"
	EventStepFinished  EventType = "step.finished"
	EventStepSucceeded EventType = "step.succeeded"
	EventStepFailed    EventType = "step.failed"
	EventStepTimeout   EventType = "step.timeout"
	EventStepRetry     EventType = "step.retry"
	EventStepWaiting   EventType = "step.waiting"
	EventStepCancelled EventType = "step.cancelled"
	EventStepDead      EventType = "step.dead"
	EventStepFallback  EventType = "step.fallback" // goes to its next driver
	EventStepMoved     EventType = "step.moved"    // goes to another of its regions

	EventPolicyDenied    EventType = "policy.denied"
	EventQueuePressure   EventType = "queue.backpressure"
	EventArtifactCreated EventType = "artifact.created"
	EventGateCreated     EventType = "gate.created"
	EventGateWaiting     EventType = "gate.waiting"
	EventGateApproved    EventType = "gate.approved"
	EventGateWaived      EventType = "gate.waived"
	EventGateFailed      EventType = "gate.failed"
	EventBreakerOpened   EventType = "breaker.opened"
	EventBreakerHalfOpen EventType = "breaker.half_open"
	EventBreakerClosed   EventType = "breaker.closed"

	// Of worker hosts, not of a run.
	EventWorkerUp      EventType = "worker.up"      // registered, or came back
	EventWorkerLost    EventType = "worker.lost"    // silent for a lease
	EventDriverUp      EventType = "driver.up"      // healthy
	EventDriverDown    EventType = "driver.down"    // not healthy any more
	EventDriverRefused EventType = "driver.refused" // the daemon does not run the plugin
	EventSweepRemoved  EventType = "sweep.removed"  // something that nobody had any more
	EventSweepFailed   EventType = "sweep.failed"   // it could not be removed
)

// Event is one entry of a run's timeline. Seq counts 1..n within the run
// without gaps. EventType repeats Type for older clients.
type Event struct {
	ID               string         `json:"id"` // the idempotency token: the same event always carries the same id
	Seq              int64          `json:"seq"`
	Type             EventType      `json:"type"`
	EventType        EventType      `json:"event_type"`
	TenantID         string         `json:"tenant_id"`
	Region           string         `json:"region,omitempty"`
	RunID            string         `json:"run_id"`
	StepID           string         `json:"step_id,omitempty"`
	StepName         string         `json:"step_name,omitempty"`
	Attempt          int            `json:"attempt,omitempty"`
	CorrelationID    string         `json:"correlation_id,omitempty"`
	IdempotencyToken string         `json:"idempotency_token"`
	CreatedAt        time.Time      `json:"created_at"`
	Payload          map[string]any `json:"payload,omitempty"`
}
