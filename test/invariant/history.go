package invariant

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// History is what a suite recorded: what clients were told, what the steps did,
// what the database holds at the end, and what is left on the host.
type History struct {
	Submits []Submit
	Cancels []Cancel
	Actions []Action
	Events  []Seen
	Outputs []Output
	States  []State
	Effects []Effect
	Looks   []Look
	Held    []Held
	Notes   []Note
	Tables  Tables
}

// Submit is one request to make a run. A repeat is one more of them, with the
// same Op.
type Submit struct {
	Op       string   `json:"op"`            // of the client's, unique; the run's goal
	Key      string   `json:"key,omitempty"` // for idempotency
	Steps    []string `json:"steps"`         // names
	Answered bool     `json:"answered"`      // with success
	RunID    string   `json:"run_id,omitempty"`
	Answer   string   `json:"answer,omitempty"` // the body
}

// Cancel is one request to cancel a run.
type Cancel struct {
	RunID    string `json:"run_id"`
	Answered bool   `json:"answered"` // with success
}

// Action is anything else that was answered with success and is audited.
type Action struct {
	Action string `json:"action"` // as the audit log calls it
	Target string `json:"target"`
}

// Seen is one event as a reader got it, in the order that it got them.
type Seen struct {
	Reader  string         `json:"reader"` // one connection, or one request
	RunID   string         `json:"run_id"`
	Seq     int64          `json:"seq"`
	ID      string         `json:"id"`
	Type    step.EventType `json:"type"`
	StepID  string         `json:"step_id,omitempty"`
	Attempt int            `json:"attempt,omitempty"`
}

// Output is what a client read of a step that succeeded, and what the step is
// known to have written.
type Output struct {
	RunID  string `json:"run_id"`
	StepID string `json:"step_id"`
	Text   string `json:"text"`
	Want   string `json:"want"`
}

// State is a step as a client saw it at some time.
type State struct {
	RunID      string      `json:"run_id"`
	StepID     string      `json:"step_id"`
	Generation int         `json:"generation"`
	Status     step.Status `json:"status"`
}

// EffectKind tells the lines that an execution leaves.
type EffectKind string

const (
	EffectBegin EffectKind = "begin"
	EffectBeat  EffectKind = "beat"
	EffectEnd   EffectKind = "end"
)

// Effect is a sign of life that one execution of a step's command left outside.
type Effect struct {
	RunID     string     `json:"run_id"`
	Step      string     `json:"step"`      // its name
	Execution string     `json:"execution"` // its own random name
	Kind      EffectKind `json:"kind"`
	At        float64    `json:"at"` // seconds of CLOCK_BOOTTIME
}

// Look is what was on a host at some time after the last sweep.
type Look struct {
	Host string   `json:"host"`
	Left []string `json:"left"`
}

// Held is how much of something that is lent was out at the end.
type Held struct {
	What string `json:"what"`
	N    int64  `json:"n"`
}

// Note is something that happened, for whoever reads the history. It proves
// nothing.
type Note struct {
	At   time.Time `json:"at"`
	Up   float64   `json:"up"` // the same moment in seconds of CLOCK_BOOTTIME, as in effects
	What string    `json:"what"`
}

// line is one record of the file.
type line struct {
	Kind string          `json:"kind"`
	Data json.RawMessage `json:"data"`
}

// Write stores the history, one record a line.
func (h History) Write(w io.Writer) error {
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	for _, g := range h.groups() {
		if err := g.write(enc); err != nil {
			return err
		}
	}
	return out.Flush()
}

// Read reads what Write has stored.
func Read(r io.Reader) (History, error) {
	var h History
	kinds := map[string]group{}
	for _, g := range h.groups() {
		kinds[g.kind()] = g
	}
	dec := json.NewDecoder(r)
	for n := 1; ; n++ {
		var l line
		err := dec.Decode(&l)
		if err == io.EOF {
			return h, nil
		}
		if err != nil {
			return h, fmt.Errorf("record %d: %w", n, err)
		}
		g, ok := kinds[l.Kind]
		if !ok {
			return h, fmt.Errorf("record %d: unknown kind %q", n, l.Kind)
		}
		if err := g.add(l.Data); err != nil {
			return h, fmt.Errorf("record %d, %s: %w", n, l.Kind, err)
		}
	}
}

// group is all records of one kind.
type group interface {
	kind() string
	write(*json.Encoder) error
	add(json.RawMessage) error
}

type list[T any] struct {
	name string
	all  *[]T
}

func (l list[T]) kind() string { return l.name }

func (l list[T]) write(enc *json.Encoder) error {
	for _, x := range *l.all {
		data, err := json.Marshal(x)
		if err == nil {
			err = enc.Encode(line{l.name, data})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}

func (l list[T]) add(data json.RawMessage) error {
	var x T
	if err := json.Unmarshal(data, &x); err != nil {
		return err
	}
	*l.all = append(*l.all, x)
	return nil
}

func (h *History) groups() []group {
	return append([]group{
		list[Submit]{"submit", &h.Submits}, list[Cancel]{"cancel", &h.Cancels}, list[Action]{"action", &h.Actions},
		list[Seen]{"event", &h.Events}, list[Output]{"output", &h.Outputs}, list[State]{"state", &h.States},
		list[Effect]{"effect", &h.Effects}, list[Look]{"look", &h.Looks}, list[Held]{"held", &h.Held},
		list[Note]{"note", &h.Notes},
	}, h.Tables.groups()...)
}
