package render

import (
	"fmt"
	"io"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Plain shows a run as lines that are only ever added: a line for each change
// of a step's state, and the step's output with its name in front. It is a
// follow.View.
type Plain struct {
	w     io.Writer
	width int // of the longest step name
	seen  map[string]state
	lines map[string]*lines
}

type state struct {
	status     step.Status
	generation int
	attempt    int
	waits      string
}

// NewPlain makes a view that writes to w.
func NewPlain(w io.Writer) *Plain {
	return &Plain{w: w, seen: map[string]state{}, lines: map[string]*lines{}}
}

// Widen makes room for the names of the run's steps.
func (p *Plain) Widen(d wire.RunDetail) {
	for _, s := range d.Steps {
		p.width = max(p.width, len(s.Name))
	}
}

// Steps prints what changed since the last call.
func (p *Plain) Steps(d wire.RunDetail) {
	p.Widen(d)
	for _, s := range d.Steps {
		now := state{s.Status, s.Generation, s.Attempt, s.WaitingFor}
		if p.seen[s.ID] == now {
			continue
		}
		first := p.seen[s.ID] == state{}
		p.seen[s.ID] = now
		if first && now.waits == "" && (s.Status == step.StepWaiting || s.Status == step.StepQueued) {
			continue // the plan's own beginning is no news
		}
		if s.Status.Terminal() {
			p.flush(s.ID, s.Name)
		}
		p.line(s.Name, "=", describe(s, time.Now()))
	}
}

// Output prints whole lines of a step's output.
func (p *Plain) Output(s wire.StepDetail, _ int, stream wire.Stream, data []byte) {
	key := s.ID + string(stream)
	l := p.lines[key]
	if l == nil {
		l = &lines{}
		p.lines[key] = l
	}
	l.add(data, func(line string) { p.line(s.Name, mark(stream), line) })
}

// Trouble prints that the API is away, or back.
func (p *Plain) Trouble(what string) {
	if what == "" {
		what = "the API is back"
	}
	fmt.Fprintln(p.w, Clean(what))
}

// Close prints what steps wrote without ending the line.
func (p *Plain) Close(d wire.RunDetail) {
	for _, s := range d.Steps {
		p.flush(s.ID, s.Name)
	}
}

func (p *Plain) flush(id, name string) {
	for _, stream := range []wire.Stream{wire.Stdout, wire.Stderr} {
		if l := p.lines[id+string(stream)]; l != nil {
			l.flush(func(line string) { p.line(name, mark(stream), line) })
		}
	}
}

func (p *Plain) line(name, mark, text string) {
	fmt.Fprintf(p.w, "%-*s %s %s\n", p.width, Clean(name), mark, text)
}

// mark tells the streams and our own lines apart.
func mark(s wire.Stream) string {
	if s == wire.Stderr {
		return "!"
	}
	return "|"
}

// describe is a step's state in a few words.
func describe(s wire.StepDetail, now time.Time) string {
	text := string(s.Status)
	if s.Attempt > 1 {
		text += fmt.Sprintf(" (attempt %d)", s.Attempt)
	}
	if s.WaitingFor != "" {
		text += ", waits for " + Clean(s.WaitingFor)
	}
	if s.Status.Terminal() && s.Verdict != nil {
		text += ", " + s.Verdict.String()
	}
	if s.StartedAt == nil {
		return text
	}
	end := now
	if s.EndedAt != nil {
		end = *s.EndedAt
	}
	return text + ", " + Duration(end.Sub(*s.StartedAt))
}
