package invariant

import (
	"cmp"
	"slices"

	"github.com/nofx-run/nofx/sdk/step"
)

// accepted is I1: what a client was told is accepted is there and has ended,
// and so has what was accepted without the client's hearing of it.
func (c *checker) accepted() int {
	n := 0
	for _, s := range c.Submits {
		if !s.Answered {
			continue
		}
		if _, ok := c.runs[s.RunID]; !ok {
			c.report("run %s (%s) was accepted and is not there", s.RunID, s.Op)
			continue
		}
		for _, name := range s.Steps {
			n++
			if _, ok := c.named[stepName{s.RunID, name}]; !ok {
				c.report("step %s of run %s was accepted and is not there", name, s.RunID)
			}
		}
	}
	for _, r := range c.Tables.Runs {
		if !r.Status.Terminal() {
			c.report("run %s is %s, with %d steps left", r.ID, r.Status, r.StepsLeft)
		}
	}
	for _, s := range c.Tables.Steps {
		if !s.Status.Terminal() {
			c.report("step %s (%s of run %s) is %s at attempt %d of generation %d", s.ID, s.Name, s.RunID, s.Status, s.Attempt, s.Generation)
		}
	}
	return n
}

// terminal is I2.
func (c *checker) terminal() int {
	n := 0
	for _, s := range c.Tables.Steps {
		n += c.stepEnds(s)
	}
	for _, r := range c.Tables.Runs {
		c.runEnds(r)
	}
	c.attemptEnds()
	c.statesAgree()
	return n
}

// stepEnds compares the events of a step's ends with its row.
func (c *checker) stepEnds(s StepRow) int {
	ends := map[int][]step.Status{} // by generation
	lived := 1
	for _, e := range c.told[s.ID] {
		if e.Payload.Generation > 0 && (e.Type == step.EventStepEnqueued || e.Type == step.EventStepWaiting) {
			lived = e.Payload.Generation
		}
		if status, ok := statusOf(e.Type); ok {
			ends[lived] = append(ends[lived], status)
		}
	}
	for g := 1; g <= max(lived, s.Generation); g++ {
		switch all := ends[g]; {
		case len(all) == 0 && (g < s.Generation || s.Status.Terminal()):
			c.report("%v has ended without an event of its end", generation{s.ID, g})
		case len(all) > 1:
			c.report("%v has ended %d times: %v", generation{s.ID, g}, len(all), all)
		case len(all) == 1 && g == s.Generation && all[0] != s.Status:
			c.report("%v has the event of %s and its row says %s", generation{s.ID, g}, all[0], s.Status)
		case g > s.Generation:
			c.report("%v is told of in events and its row is at generation %d", generation{s.ID, g}, s.Generation)
		}
	}
	return len(ends)
}

func statusOf(t step.EventType) (step.Status, bool) {
	switch t {
	case step.EventStepSucceeded:
		return step.StepSucceeded, true
	case step.EventStepFailed:
		return step.StepFailed, true
	case step.EventStepTimeout:
		return step.StepTimedOut, true
	case step.EventStepCancelled:
		return step.StepCancelled, true
	}
	return "", false
}

// runEnds looks at a run's ends, one for each time that it was opened.
func (c *checker) runEnds(r RunRow) {
	var last step.RunStatus
	for _, e := range c.events[r.ID] {
		status := map[step.EventType]step.RunStatus{
			step.EventRunSucceeded: step.RunSucceeded, step.EventRunFailed: step.RunFailed, step.EventRunCancelled: step.RunCancelled,
		}[e.Type]
		switch {
		case e.Type == step.EventRunResumed:
			last = ""
		case status != "" && last != "":
			c.report("run %s has ended twice: %s and %s (event %d)", r.ID, last, status, e.Seq)
		case status != "":
			last = status
		}
	}
	if r.Status.Terminal() && last != r.Status {
		c.report("run %s has the event of %q and its row says %s", r.ID, last, r.Status)
	}
}

// try is one numbered attempt; a lease that was given back burns no number.
type try struct {
	generation
	number int
}

// attemptEnds: each attempt has one verdict, told of by one event.
func (c *checker) attemptEnds() {
	finished := map[try]int{}
	for id, events := range c.told {
		lived := 1
		for _, e := range events {
			if e.Payload.Generation > 0 {
				lived = e.Payload.Generation
			}
			if e.Type == step.EventStepFinished {
				finished[try{generation{id, lived}, e.Attempt}]++
			}
		}
	}
	rows := map[try]int{}
	for _, a := range c.Tables.Attempts {
		t := try{generation{a.StepID, a.Generation}, a.Number}
		if a.Status == "ended" || a.Status == "lost" {
			rows[t]++
			if a.Verdict == nil {
				c.report("attempt %s is %s and has no verdict", a.ID, a.Status)
			}
		}
	}
	for t, n := range finished {
		if n != 1 || rows[t] != 1 {
			c.report("attempt %d of %v: %d events of its end, %d rows that have ended", t.number, t.generation, n, rows[t])
		}
	}
	for t, n := range rows {
		if finished[t] == 0 {
			c.report("attempt %d of %v: %d rows that have ended, no event of it", t.number, t.generation, n)
		}
	}
}

// statesAgree: once a client saw a terminal state, it stays.
func (c *checker) statesAgree() {
	seen := map[generation]step.Status{}
	for _, s := range c.States {
		if !s.Status.Terminal() {
			continue
		}
		g := generation{s.StepID, s.Generation}
		if was, ok := seen[g]; ok && was != s.Status {
			c.report("%v was seen as %s and as %s", g, was, s.Status)
		}
		seen[g] = s.Status
		if row := c.steps[s.StepID]; row.Generation == s.Generation && row.Status != s.Status {
			c.report("%v was seen as %s and its row says %s", g, s.Status, row.Status)
		}
	}
}

// dead is I6.
func (c *checker) dead() int {
	entries := map[generation][]string{}
	for _, d := range c.Tables.Dead {
		g := generation{d.StepID, d.Generation}
		entries[g] = append(entries[g], d.ID)
	}
	buried := map[generation]int{}
	for id, events := range c.told {
		lived := 1
		for _, e := range events {
			if e.Payload.Generation > 0 {
				lived = e.Payload.Generation
			}
			if e.Type == step.EventStepDead {
				buried[generation{id, lived}]++
			}
		}
	}
	for g, ids := range entries {
		if len(ids) > 1 {
			c.report("%v is in the DLQ %d times: %v", g, len(ids), ids)
		}
		if buried[g] == 0 {
			c.report("%v is in the DLQ (%s) and no event says so", g, ids[0])
		}
	}
	for g, n := range buried {
		if n != 1 || len(entries[g]) == 0 {
			c.report("%v: %d events say that it is in the DLQ, which has %d entries of it", g, n, len(entries[g]))
		}
	}
	for _, s := range c.Tables.Steps {
		g := generation{s.ID, s.Generation}
		switch want, sure := exhausted(s, c.runs[s.RunID]); {
		case want && len(entries[g]) == 0:
			c.report("%v ended as %s after %d attempts and is not in the DLQ", g, s.Verdict, s.Attempt)
		case !want && sure && len(entries[g]) > 0:
			c.report("%v ended as %s after %d attempts and is in the DLQ: %v", g, s.Status, s.Attempt, entries[g])
		}
	}
	return len(c.Tables.Steps)
}

// exhausted tells whether a step belongs into the DLQ, and whether the rows
// alone can tell that it does not: a first failure does if it was to be tried
// again and its run had no retry left.
func exhausted(s StepRow, r RunRow) (want, sure bool) {
	if s.Status != step.StepFailed && s.Status != step.StepTimedOut || s.Verdict == nil || s.Verdict.Cause == step.CausePolicy {
		return false, true
	}
	if s.Verdict.Cause.Infrastructure() {
		return true, true
	}
	return s.Attempt >= 2 && r.CancelAt == nil, false
}

// sorted gives the keys of a map in order, so that reports are the same each
// time.
func sorted[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
