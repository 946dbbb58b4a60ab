package render

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	redraw    = 120 * time.Millisecond
	tailLines = 6 // of output under a running step
)

// Live shows a run on a terminal: one line a step, redrawn in place, and the
// end of the output under each running one. It is a follow.View.
type Live struct {
	w    io.Writer
	size func() (cols, rows int)
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	detail  wire.RunDetail
	tails   map[string]*tail
	trouble string
	drawn   int // lines on the screen that are ours
	spin    int
}

type tail struct {
	attempt int
	streams map[wire.Stream]*lines
	last    []string
}

// NewLive makes a view that draws on w, a terminal whose size size tells.
// Close must be called.
func NewLive(w io.Writer, size func() (cols, rows int)) *Live {
	v := &Live{w: w, size: size, stop: make(chan struct{}), done: make(chan struct{}), tails: map[string]*tail{}}
	go v.run()
	return v
}

func (v *Live) run() {
	defer close(v.done)
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for {
		select {
		case <-v.stop:
			return
		case <-ticker.C:
			v.mu.Lock()
			v.draw(false)
			v.mu.Unlock()
		}
	}
}

// Steps takes the run's new state.
func (v *Live) Steps(d wire.RunDetail) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.detail = d
}

// Output takes a piece of output.
func (v *Live) Output(s wire.StepDetail, attempt int, stream wire.Stream, data []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tails[s.ID]
	if t == nil || t.attempt != attempt {
		t = &tail{attempt: attempt, streams: map[wire.Stream]*lines{wire.Stdout: {}, wire.Stderr: {}}}
		v.tails[s.ID] = t
	}
	l := t.streams[stream]
	if l == nil {
		return
	}
	l.add(data, func(line string) {
		t.last = append(t.last, line)
		if len(t.last) > tailLines {
			t.last = t.last[len(t.last)-tailLines:]
		}
	})
}

// Trouble shows a line about the connection.
func (v *Live) Trouble(what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.trouble = what
}

// Close draws the last state, which stays on the screen.
func (v *Live) Close(d wire.RunDetail) {
	close(v.stop)
	<-v.done
	v.mu.Lock()
	defer v.mu.Unlock()
	if d.Run.ID != "" {
		v.detail = d
	}
	v.draw(true)
}

func (v *Live) draw(final bool) {
	v.spin++
	cols, rows := v.size()
	picture := v.picture(time.Now(), cols, rows, final)
	var b strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn)
	}
	for _, line := range picture {
		b.WriteString("\r\x1b[2K" + line + "\n")
	}
	// What the last picture had more than this one.
	if more := v.drawn - len(picture); more > 0 {
		b.WriteString("\r\x1b[J")
	}
	v.drawn = len(picture)
	_, _ = io.WriteString(v.w, b.String()) // a terminal that is gone takes nothing anyway
}

// picture is the screen's lines, at most rows-1 of them so that it never
// scrolls out of reach.
func (v *Live) picture(now time.Time, cols, rows int, final bool) []string {
	width := 0
	for _, s := range v.detail.Steps {
		width = max(width, len([]rune(s.Name)))
	}
	width = min(width, 40)
	var out []string
	hidden := map[step.Status]int{}
	budget := max(rows-3, 4)
	crowded := !final && len(v.detail.Steps) > budget-tailLines
	for _, s := range v.detail.Steps {
		if crowded && (s.Status != step.StepRunning || len(out) >= budget) {
			hidden[s.Status]++
			continue
		}
		out = append(out, Cut(fmt.Sprintf("%s %-*s  %s", v.sign(s.Status), width, Cut(Clean(s.Name), width), describe(s, now)), cols-1))
		if final || s.Status != step.StepRunning {
			continue
		}
		if t := v.tails[s.ID]; t != nil {
			for _, line := range t.last {
				if len(out) < budget {
					out = append(out, "    \x1b[2m"+Cut(line, cols-6)+"\x1b[0m")
				}
			}
		}
	}
	if len(hidden) > 0 {
		var parts []string
		for _, st := range []step.Status{step.StepSucceeded, step.StepFailed, step.StepTimedOut, step.StepCancelled, step.StepRunning, step.StepQueued, step.StepWaiting} {
			if n := hidden[st]; n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", n, st))
			}
		}
		out = append(out, Cut("  and "+strings.Join(parts, ", "), cols-1))
	}
	if v.trouble != "" && !final {
		out = append(out, Cut("! "+Clean(v.trouble), cols-1))
	}
	return out
}

func (v *Live) sign(s step.Status) string {
	switch s {
	case step.StepSucceeded:
		return "✓"
	case step.StepFailed, step.StepTimedOut:
		return "✗"
	case step.StepCancelled:
		return "-"
	case step.StepRunning:
		return string([]rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")[v.spin%10])
	}
	return "·"
}
