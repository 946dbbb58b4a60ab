package invariant

import "fmt"

// ordered is I5.
func (c *checker) ordered() int {
	for _, r := range c.Tables.Runs {
		c.numbers(r)
	}
	c.readers()
	c.journals()
	for _, o := range c.Outputs {
		if o.Text != o.Want {
			c.report("output of step %s: %s", o.StepID, difference(o.Text, o.Want))
		}
	}
	return len(c.Tables.Events)
}

// numbers: the events of a run are 1..n, each once.
func (c *checker) numbers(r RunRow) {
	all := c.events[r.ID]
	for i, e := range all {
		if e.Seq != int64(i+1) {
			c.report("run %s: event number %d has the number %d", r.ID, i+1, e.Seq)
			return
		}
	}
	if r.NextSeq != int64(len(all))+1 {
		c.report("run %s has %d events and gives out the number %d next", r.ID, len(all), r.NextSeq)
	}
}

// readers: each got the events one after the other, as they are in the table.
func (c *checker) readers() {
	type place struct{ reader, run string }
	at := map[place]int64{}
	ids := map[string]Seen{}
	for _, e := range c.Events {
		p := place{e.Reader, e.RunID}
		if last, ok := at[p]; ok && e.Seq != last+1 {
			c.report("run %s: reader %s got event %d after %d", e.RunID, e.Reader, e.Seq, last)
		}
		at[p] = e.Seq
		all := c.events[e.RunID]
		if e.Seq < 1 || e.Seq > int64(len(all)) {
			c.report("run %s: reader %s got event %d, which is not there", e.RunID, e.Reader, e.Seq)
			continue
		}
		if row := all[e.Seq-1]; row.Type != e.Type || row.StepID != e.StepID || row.Attempt != e.Attempt {
			c.report("run %s: reader %s got event %d as %s of step %s attempt %d, it is %s of step %s attempt %d",
				e.RunID, e.Reader, e.Seq, e.Type, e.StepID, e.Attempt, row.Type, row.StepID, row.Attempt)
		}
		if was, ok := ids[e.ID]; ok && (was.RunID != e.RunID || was.Seq != e.Seq) {
			c.report("event id %s is event %d of run %s and event %d of run %s", e.ID, was.Seq, was.RunID, e.Seq, e.RunID)
		}
		ids[e.ID] = e
	}
}

// journals: what is stored of an attempt has no gap, and all of it is stored
// when it has ended by a verdict of its own.
func (c *checker) journals() {
	stored := map[string]int64{}
	broken := map[string]bool{}
	for _, o := range c.Tables.Output {
		if o.Start != stored[o.AttemptID] && !broken[o.AttemptID] {
			broken[o.AttemptID] = true
			c.report("attempt %s: a piece of output at %d, %d bytes are before it", o.AttemptID, o.Start, stored[o.AttemptID])
		}
		stored[o.AttemptID] = o.Start + o.Length
	}
	for _, a := range c.Tables.Attempts {
		if stored[a.ID] != a.OutputBytes {
			c.report("attempt %s has %d bytes of output, %d are stored", a.ID, a.OutputBytes, stored[a.ID])
		}
		if a.Status != "ended" || a.Verdict == nil {
			continue
		}
		if a.JournalN < 1 {
			c.report("attempt %s has a verdict and %d records", a.ID, a.JournalN)
		}
		if told := a.Verdict.Output.StoredBytes; told != a.OutputBytes && !a.Verdict.Cause.Infrastructure() && told > 0 {
			c.report("attempt %s: its verdict says %d bytes of output, %d are there", a.ID, told, a.OutputBytes)
		}
	}
}

// difference tells where a text begins to differ from what it should be.
func difference(got, want string) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	return fmt.Sprintf("%d bytes, expected %d; they differ from byte %d on: %.40q, expected %.40q", len(got), len(want), i, got[i:], want[i:])
}
