package invariant

import (
	"fmt"
	"slices"
	"strings"
)

// Violation is one thing that must not be.
type Violation struct {
	Invariant string // I1 to I9
	What      string // in words, with the ids concerned
}

func (v Violation) String() string { return v.Invariant + " " + v.What }

// Check judges a history. None means that every invariant held, and that the
// history has something to say about each.
func Check(h History) []Violation {
	c := &checker{History: h}
	c.index()
	for _, one := range []struct {
		invariant string
		check     func() (evidence int)
	}{
		{"I1", c.accepted}, {"I2", c.terminal}, {"I3", c.fenced}, {"I4", c.left}, {"I5", c.ordered},
		{"I6", c.dead}, {"I7", c.audited}, {"I8", c.held}, {"I9", c.keys},
	} {
		c.now = one.invariant
		if one.check() == 0 {
			c.report("nothing proven: the history has nothing that it could be judged by")
		}
	}
	return c.found
}

// checker has the history by what its parts belong to.
type checker struct {
	History
	now   string // the invariant that is being looked at
	found []Violation

	runs     map[string]RunRow
	steps    map[string]StepRow
	named    map[stepName]StepRow
	attempts map[string][]AttemptRow // by step, in order of epochs
	events   map[string][]EventRow   // by run, in order
	told     map[string][]EventRow   // the same by step
}

type stepName struct{ run, name string }

// generation is one life of a step.
type generation struct {
	step string
	n    int
}

func (g generation) String() string { return fmt.Sprintf("step %s generation %d", g.step, g.n) }

func (c *checker) report(format string, args ...any) {
	c.found = append(c.found, Violation{c.now, fmt.Sprintf(format, args...)})
}

func (c *checker) index() {
	c.runs, c.steps, c.named = map[string]RunRow{}, map[string]StepRow{}, map[stepName]StepRow{}
	c.attempts, c.events, c.told = map[string][]AttemptRow{}, map[string][]EventRow{}, map[string][]EventRow{}
	for _, r := range c.Tables.Runs {
		c.runs[r.ID] = r
	}
	for _, s := range c.Tables.Steps {
		c.steps[s.ID], c.named[stepName{s.RunID, s.Name}] = s, s
	}
	for _, a := range c.Tables.Attempts {
		c.attempts[a.StepID] = append(c.attempts[a.StepID], a)
	}
	for _, all := range c.attempts {
		slices.SortFunc(all, func(a, b AttemptRow) int { return int(a.Epoch - b.Epoch) })
	}
	for _, e := range c.Tables.Events {
		c.events[e.RunID] = append(c.events[e.RunID], e)
	}
	for _, all := range c.events {
		slices.SortStableFunc(all, func(a, b EventRow) int { return int(a.Seq - b.Seq) })
		for _, e := range all {
			if e.StepID != "" {
				c.told[e.StepID] = append(c.told[e.StepID], e)
			}
		}
	}
}

// Invariants counts violations by invariant, for tables and messages.
func Invariants(all []Violation) string {
	n := map[string]int{}
	for _, v := range all {
		n[v.Invariant]++
	}
	var out []string
	for i := range 9 {
		if name := fmt.Sprintf("I%d", i+1); n[name] > 0 {
			out = append(out, fmt.Sprintf("%s×%d", name, n[name]))
		}
	}
	return strings.Join(out, " ")
}
