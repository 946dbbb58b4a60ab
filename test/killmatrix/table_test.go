package killmatrix

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// bound is how soon a run must have ended after the kill.
const bound = lease + 5*time.Second

// cleanBound is how soon nothing of the run may be on the host any more: whoever
// was killed sees to that when it is back, and not the sweep, which comes later.
const cleanBound = bound + 5*time.Second

// cell is what a cell of the table counts.
type cell struct {
	hit, missed                        int
	lost, duplicated, leaked, disorder int
	times, clean                       []time.Duration
}

func sum(all []outcome) cell {
	var c cell
	for _, o := range all {
		if o.missed != "" {
			c.missed++
			continue
		}
		c.hit++
		c.lost += len(o.wrong)
		c.duplicated += len(o.again)
		if o.late() {
			c.leaked++
		}
		for _, b := range o.broken {
			switch b.Invariant {
			case "I1", "I7":
				c.lost++
			case "I2", "I3", "I6", "I9":
				c.duplicated++
			case "I4", "I8":
				c.leaked++
			default:
				c.disorder++
			}
		}
		c.times, c.clean = append(c.times, o.recovery), append(c.clean, o.clean)
	}
	slices.Sort(c.times)
	slices.Sort(c.clean)
	return c
}

// late reports whether something of the run was on the host for too long.
func (o outcome) late() bool { return o.clean > cleanBound }

func (c cell) p50() time.Duration  { return c.times[(len(c.times)-1)/2] }
func (c cell) most() time.Duration { return c.times[len(c.times)-1] }

func (c cell) String() string {
	if c.hit == 0 {
		return fmt.Sprintf("NOT HIT (0 of %d)", c.missed)
	}
	text := fmt.Sprintf("%d %d %d %d · %.1f / %.1f s", c.lost, c.duplicated, c.leaked, c.disorder, c.p50().Seconds(), c.most().Seconds())
	if c.missed > 0 {
		text += fmt.Sprintf(" · NOT HIT %d of %d", c.missed, c.missed+c.hit)
	}
	return text
}

// judge fails the test for each cell that is not as it must be.
func (m *matrix) judge(t *testing.T) {
	t.Helper()
	for _, p := range places() {
		for _, v := range victims() {
			all, ok := m.cells[p.title][v.title]
			if !ok {
				continue // not in the short form
			}
			c := sum(all)
			at := p.title + ", " + v.title
			if c.missed > 0 {
				t.Errorf("%s: not hit %d times of %d", at, c.missed, len(all))
			}
			if c.lost+c.duplicated+c.leaked+c.disorder > 0 {
				t.Errorf("%s: %d lost, %d duplicated, %d leaked, %d out of order", at, c.lost, c.duplicated, c.leaked, c.disorder)
			}
			if c.hit > 0 && c.most() > bound {
				t.Errorf("%s: recovered after %v, the bound is %v", at, c.most(), bound)
			}
		}
	}
}

// table is the page in docs/.
func (m *matrix) table(took time.Duration, systems int) string {
	var b strings.Builder
	kills := 0
	for _, row := range m.cells {
		for _, all := range row {
			for _, o := range all {
				if o.missed == "" {
					kills++
				}
			}
		}
	}
	fmt.Fprintf(&b, `# Kill matrix

Written by `+"`make killmatrix`"+`; see test/killmatrix for how a place is hit exactly, and test/invariant for how the rest is judged.

%d rounds a cell, %d kills in all, in %s with %d systems at a time on one machine. The lease is %v, the heartbeat %v. The run of a round is two steps that share a workspace, with artifacts and no network; in turns the first (idempotent) and the second (not idempotent) is hit.

A cell is: lost, duplicated (that a step is run again before its lease could run out counts as that: a sandbox outlives every process but its supervisor), leaked (that something of the run is on the host %v after the kill counts as that), out of order · p50 / longest time from the kill to the run's end, which includes what the steps still had to do, 0.7 s each. The bound is the lease + 5 s = %v. The supervisor is that of the step's sandbox; where there is none yet or any more (†), the one that makes them is killed.

`, m.rounds, kills, took.Round(time.Second), systems, lease, heartbeat, cleanBound, bound)
	b.WriteString("| killed at |")
	for _, v := range victims() {
		fmt.Fprintf(&b, " %s |", v.title)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(victims())) + "\n")
	var longest time.Duration
	for _, p := range places() {
		title := p.title
		if !p.boxed {
			title += " †"
		}
		fmt.Fprintf(&b, "| %s |", title)
		for _, v := range victims() {
			all := m.cells[p.title][v.title]
			if len(all) == 0 {
				b.WriteString(" not run |")
				continue
			}
			c := sum(all)
			if n := len(c.clean); n > 0 {
				longest = max(longest, c.clean[n-1])
			}
			fmt.Fprintf(&b, " %s |", c)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\nThe longest time from a kill until nothing of the run was on the host any more (processes, control groups, folders, journals): %.1f s.\n", longest.Seconds())
	return b.String()
}
