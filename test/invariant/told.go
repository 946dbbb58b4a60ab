package invariant

import "encoding/json"

// left is I4.
func (c *checker) left() int {
	for _, l := range c.Looks {
		for _, what := range l.Left {
			c.report("left on %s: %s", l.Host, what)
		}
	}
	return len(c.Looks)
}

// held is I8.
func (c *checker) held() int {
	for _, a := range c.Tables.Attempts {
		if a.Status == "running" {
			c.report("attempt %s of step %s still has its lease", a.ID, a.StepID)
		}
	}
	for _, w := range c.Tables.Workers {
		if w.Held != 0 {
			c.report("worker %s (%s) holds %d leases", w.ID, w.Name, w.Held)
		}
	}
	for _, h := range c.Held {
		if h.N != 0 {
			c.report("%d of %s are held", h.N, h.What)
		}
	}
	return len(c.Tables.Workers) + len(c.Held)
}

// audited is I7: what a client was told is done is noted, and what was done is
// noted once.
func (c *checker) audited() int {
	rows := map[Action]int{}
	for _, r := range c.Tables.Audit {
		if r.Outcome == "allowed" {
			rows[Action{r.Action, r.Target}]++
		}
	}
	for _, r := range c.Tables.Runs {
		if n := rows[Action{"run.create", r.ID}]; n != 1 {
			c.report("run %s: %d rows in the audit log say that it was made", r.ID, n)
		}
		if n := rows[Action{"run.cancel", r.ID}]; r.CancelAt != nil && n == 0 {
			c.report("run %s was cancelled and no row in the audit log says so", r.ID)
		}
	}
	for a, n := range rows {
		if _, ok := c.runs[a.Target]; a.Action == "run.create" && !ok {
			c.report("run %s: %d rows in the audit log say that it was made, and it is not there", a.Target, n)
		}
	}
	done := map[Action]int{}
	for _, x := range c.Cancels {
		if x.Answered {
			done[Action{"run.cancel", x.RunID}]++
		}
	}
	for _, a := range c.Actions {
		done[a]++
	}
	for a, n := range done {
		if rows[a] < n {
			c.report("%s of %s was answered %d times, %d rows in the audit log say so", a.Action, a.Target, n, rows[a])
		}
	}
	return len(c.Tables.Audit)
}

// keys is I9.
func (c *checker) keys() int {
	n := 0
	made := map[string][]string{} // by the client's operation
	for _, r := range c.Tables.Runs {
		made[r.Goal] = append(made[r.Goal], r.ID)
	}
	first := map[string]Submit{}
	for _, s := range c.Submits {
		if s.Key == "" {
			continue
		}
		n++
		if ids := made[s.Op]; len(ids) > 1 {
			c.report("key %s made %d runs: %v", s.Key, len(ids), ids)
			delete(made, s.Op) // told once
		}
		if !s.Answered {
			continue
		}
		was, ok := first[s.Key]
		if !ok {
			first[s.Key] = s
			c.remembered(s)
			continue
		}
		if was.RunID != s.RunID || was.Answer != s.Answer {
			c.report("key %s was answered with run %s and with run %s: %s, %s", s.Key, was.RunID, s.RunID, was.Answer, s.Answer)
		}
	}
	return n
}

// remembered: the key's row gives the answer that the client got.
func (c *checker) remembered(s Submit) {
	for _, row := range c.Tables.Idempotency {
		if row.Key != s.Key {
			continue
		}
		var told struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal([]byte(row.Body), &told); err != nil || told.ID != s.RunID {
			c.report("key %s was answered with run %s and is remembered with %s", s.Key, s.RunID, row.Body)
		}
		return
	}
	c.report("key %s was answered with run %s and is not remembered", s.Key, s.RunID)
}
