package invariant

import (
	"cmp"
	"slices"

	"github.com/nofx-run/nofx/sdk/step"
)

// fenced is I3.
func (c *checker) fenced() int {
	n := c.effects()
	for _, id := range sorted(c.attempts) {
		c.epochs(c.steps[id], c.attempts[id])
	}
	for _, id := range sorted(c.told) {
		c.stale(id)
	}
	c.artifacts()
	return n
}

// span is when an execution was certainly alive.
type span struct {
	execution string
	from, to  float64
}

// effects looks for executions of one step that overlap, and for more of them
// than the step has attempts.
func (c *checker) effects() int {
	spans := map[stepName][]span{}
	for _, e := range c.Effects {
		at := stepName{e.RunID, e.Step}
		all := spans[at]
		i := slices.IndexFunc(all, func(s span) bool { return s.execution == e.Execution })
		if i < 0 {
			spans[at] = append(all, span{e.Execution, e.At, e.At})
			continue
		}
		all[i].from, all[i].to = min(all[i].from, e.At), max(all[i].to, e.At)
	}
	for at, all := range spans {
		row, ok := c.named[at]
		if !ok {
			c.report("step %s of run %s was executed and is not there", at.name, at.run)
			continue
		}
		if most := len(c.attempts[row.ID]); len(all) > most {
			c.report("step %s (%s of run %s) was executed %d times in %d attempts", row.ID, at.name, at.run, len(all), most)
		}
		slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.from, b.from) })
		for i := 1; i < len(all); i++ {
			// The clock has hundredths of a second: one is not an overlap.
			if a, b := all[i-1], all[i]; b.from < a.to-0.015 {
				c.report("step %s (%s of run %s): execution %s was alive until %.2f and %s from %.2f on", row.ID, at.name, at.run, a.execution, a.to, b.execution, b.from)
			}
		}
	}
	return len(c.Effects)
}

// epochs: the attempts of a step follow one another, the step is at the newest
// of them, and a step that succeeded did so by that one.
func (c *checker) epochs(s StepRow, all []AttemptRow) {
	for i := 1; i < len(all); i++ {
		a, b := all[i-1], all[i]
		switch {
		case a.Epoch == b.Epoch:
			c.report("step %s: attempts %s and %s have the same epoch %d", s.ID, a.ID, b.ID, a.Epoch)
		case b.Generation < a.Generation || b.Generation == a.Generation && b.Number < a.Number:
			c.report("step %s: attempt %s of epoch %d is behind %s of epoch %d", s.ID, b.ID, b.Epoch, a.ID, a.Epoch)
		case a.EndedAt == nil:
			c.report("step %s: attempt %s was given out while %s had not ended", s.ID, b.ID, a.ID)
		}
	}
	last := all[len(all)-1]
	if s.Epoch != last.Epoch {
		c.report("step %s is at epoch %d, its newest attempt %s at %d", s.ID, s.Epoch, last.ID, last.Epoch)
	}
	for _, a := range all {
		good := a.Status == "ended" && a.Verdict != nil && a.Verdict.Success()
		if good && a.Generation == s.Generation && s.Status != step.StepSucceeded {
			c.report("attempt %s succeeded and step %s is %s", a.ID, s.ID, s.Status)
		}
	}
	if s.Status == step.StepSucceeded && (last.Status != "ended" || last.Verdict == nil || !last.Verdict.Success()) {
		c.report("step %s succeeded and its newest attempt %s is %s: %v", s.ID, last.ID, last.Status, last.Verdict)
	}
}

// stale: nothing is told of an attempt once a newer one has begun, and nothing
// but that it is dead once the step has ended.
func (c *checker) stale(id string) {
	newest, ended := 0, false
	for _, e := range c.told[id] {
		if e.Payload.Generation > 0 {
			newest, ended = 0, false
		}
		if e.Attempt > 0 && e.Attempt < newest {
			c.report("step %s: event %d (%s) is of attempt %d, when attempt %d had begun", id, e.Seq, e.Type, e.Attempt, newest)
		}
		if ended && e.Type != step.EventStepDead {
			c.report("step %s: event %d (%s) comes after its end", id, e.Seq, e.Type)
		}
		newest = max(newest, e.Attempt)
		if _, ok := statusOf(e.Type); ok {
			ended = true
		}
	}
}

// artifacts exist only through the verdict of an attempt that counts.
func (c *checker) artifacts() {
	by := map[string]AttemptRow{}
	for _, a := range c.Tables.Attempts {
		by[a.ID] = a
	}
	for _, f := range c.Tables.Artifacts {
		if a, ok := by[f.AttemptID]; !ok || a.Status != "ended" || a.StepID != f.StepID {
			c.report("artifact %s is of attempt %s, which is %q", f.Name, f.AttemptID, a.Status)
		}
	}
}
