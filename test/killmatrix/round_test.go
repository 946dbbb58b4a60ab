package killmatrix

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
	"github.com/nofx-run/nofx/test/invariant"
)

// outcome is what came of one round.
type outcome struct {
	missed   string   // why the place was not hit, "" = it was
	wrong    []string // with the run itself
	again    []string // steps that were run again without need
	broken   []invariant.Violation
	attempts []string      // what became of them
	recovery time.Duration // from the kill to the run's end
	clean    time.Duration // from the kill until nothing of it is on the host
}

const frozen = 300 * time.Millisecond // in which the others come to call the one that is stopped

const lines = 20 // that each step writes, in about 0.6 s

// plan is the run of every round. The step that is to be hit waits in its middle
// where it is to be cancelled.
func plan(p place, target string) []wire.PlanStep {
	between := func(name, more string) string {
		script := fmt.Sprintf("echo %[1]s >%[1]s.a; echo more >%[1]s.b; %[2]s", name, more)
		if p.stop && name == target {
			script += "\nsleep 77"
		}
		return script
	}
	first := harness.Bash("first", invariant.Script("first", lines, between("first", "true")))
	second := harness.Bash("second", invariant.Script("second", lines, between("second", "cat first.a >/dev/null || exit 9")), "first")
	yes, no := true, false
	first.Idempotent, second.Idempotent = &yes, &no
	first.Artifacts, second.Artifacts = []string{"first.a", "first.b"}, []string{"second.a", "second.b"}
	all := []wire.PlanStep{first, second}
	for i := range all {
		if p.net && all[i].Name == target {
			all[i].Network, all[i].Idempotent = step.NetworkOpen, &no
		}
	}
	return all
}

// round brings a run to the place, kills the victim there, and judges the rest.
func (l *lab) round(p place, v victim, n int) outcome {
	l.clear()
	// It must not be waited for while somebody is held.
	if !within(calm+hitTime, func() bool { pid := v.pid(l.s, place{}); return pid != 0 && age(l.t, pid) >= l.calm(v) }) {
		return outcome{missed: "there is no calm " + v.title}
	}
	target := []string{"first", "second"}[n%2]
	if p.early {
		target = "first"
	}
	steps := plan(p, target)
	l.runs++
	c := &client{l: l, op: fmt.Sprintf("round-%04d", l.runs)}
	defer c.wait.Wait()
	defer l.clear()
	if why := l.bring(c, p, target, steps); why != "" {
		return outcome{missed: why}
	}
	pid := 0
	if !within(lease/2, func() bool { pid = v.pid(l.s, p); return pid != 0 }) {
		return outcome{missed: "there is no " + v.title}
	}
	if p.froze {
		signal(l.t, pid, syscall.SIGSTOP)
		l.clear()
		within(frozen, func() bool { return dead(pid) })
	}
	signal(l.t, pid, syscall.SIGKILL)
	killed := time.Now()
	if !within(hitTime, func() bool { return dead(pid) }) {
		l.t.Fatalf("%s (pid %d) does not die", v.title, pid)
	}
	l.clear()
	if p.slow > 0 && !l.delay(v, p, pid) {
		return outcome{missed: "there is no other " + v.title}
	}

	var out outcome
	var d wire.RunDetail
	if !within(endTime, func() bool {
		if c.id() == "" {
			return false
		}
		var ok bool
		d, ok = c.look()
		return ok && d.Run.Status.Terminal()
	}) {
		out.wrong = append(out.wrong, fmt.Sprintf("the run has not ended %v after the kill", endTime))
	}
	out.recovery = time.Since(killed) - p.slow
	left := []string{}
	within(cleanTime, func() bool { left = l.s.Remains(); return len(left) == 0 })
	out.clean = time.Since(killed) - p.slow
	c.submit(steps) // the client may ask again at any time
	c.wait.Wait()
	if c.deaf != "" {
		out.wrong = append(out.wrong, c.deaf)
	}
	out.wrong = append(out.wrong, l.expect(c, p, v, d)...)
	c.h.Looks = append(c.h.Looks, invariant.Look{Host: "this host", Left: left})
	l.judge(c, &out)
	if v.title != "supervisor" {
		out.again = again(c.h.Tables, killed)
	}
	return out
}

// delay stops the one that is started instead of a victim, before it has come
// far, for a while.
func (l *lab) delay(v victim, p place, victim int) bool {
	pid := 0
	if !within(lease/2, func() bool { pid = v.pid(l.s, p); return pid != 0 && pid != victim }) {
		return false
	}
	signal(l.t, pid, syscall.SIGSTOP)
	within(p.slow, func() bool { return dead(pid) })
	signal(l.t, pid, syscall.SIGCONT)
	return true
}

// again lists the steps that were run again after the kill before a lease could
// have run out: their sandbox was not hurt, and its result was thrown away.
func again(t invariant.Tables, killed time.Time) (steps []string) {
	for _, a := range t.Attempts {
		if since := a.ClaimedAt.Sub(killed); a.Number > 1 && since < lease-2*heartbeat {
			steps = append(steps, fmt.Sprintf("step %s: attempt %d was given out %.2fs after the kill", a.StepID, a.Number, since.Seconds()))
		}
	}
	return steps
}

// bring starts the run and takes it to the place. It returns why it could not.
func (l *lab) bring(c *client, p place, target string, steps []wire.PlanStep) string {
	of := target
	if p.any {
		of = ""
	}
	if p.first != "" {
		l.arm(p.first, "")
		if !l.held(p.first) {
			return "nobody came by " + p.first
		}
	}
	if p.also != "" {
		l.arm(p.also, of)
	}
	if !p.begun {
		l.arm(p.point, of)
	}
	c.wait.Go(func() { c.submit(steps) })
	c.wait.Go(c.follow)
	if p.begun {
		if !within(hitTime, func() bool { return c.id() != "" && c.wrote(target) }) {
			return target + " wrote nothing"
		}
		l.arm(p.point, of)
	}
	if p.stop {
		c.wait.Go(c.cancel)
	}
	if !l.held(p.point) {
		return "nobody came by " + p.point
	}
	if p.pass {
		l.arm(p.point, of)
		l.release(p.point)
		if !l.held(p.point) {
			return "nobody came by " + p.point + " once more"
		}
	}
	if p.also != "" && !l.held(p.also) {
		return "nobody came by " + p.also
	}
	if p.ended && !within(hitTime, func() bool { return c.stepEnded(target) }) {
		return "the API has not heard of the end of " + target
	}
	return ""
}

// calm is how long the victim must have lived: nothing in the short form, where
// nobody is killed often.
func (l *lab) calm(v victim) time.Duration {
	if !all() {
		return 0
	}
	return v.calm
}

// expect compares the run with what must have come of it, and notes its output.
func (l *lab) expect(c *client, p place, v victim, d wire.RunDetail) (wrong []string) {
	want := step.RunSucceeded
	switch {
	case p.stop:
		want = step.RunCancelled
	case p.net && v.title == "supervisor":
		want = step.RunFailed // a person decides; that it is in the DLQ, the checker sees
	}
	if d.Run.Status != want {
		wrong = append(wrong, fmt.Sprintf("run %s is %q, not %s: %s", d.Run.ID, d.Run.Status, want, verdicts(d)))
	}
	for _, s := range d.Steps {
		if s.Status != step.StepSucceeded {
			continue
		}
		text, _ := l.s.Output(d.Run.ID, s.ID)
		c.h.Outputs = append(c.h.Outputs, invariant.Output{RunID: d.Run.ID, StepID: s.ID, Text: text, Want: invariant.Lines(s.Name, lines)})
		var names []string
		for _, a := range d.Artifacts {
			if a.StepID == s.ID {
				names = append(names, a.Name)
			}
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != s.Name+".a "+s.Name+".b" {
			wrong = append(wrong, fmt.Sprintf("step %s has the artifacts %q", s.ID, got))
		}
	}
	return wrong
}

func verdicts(d wire.RunDetail) string {
	var all []string
	for _, s := range d.Steps {
		one := fmt.Sprintf("%s %s after %d attempts", s.Name, s.Status, s.Attempt)
		if s.Verdict != nil {
			one += fmt.Sprintf(": %s %s", s.Verdict, s.Verdict.Message)
		}
		all = append(all, one)
	}
	return strings.Join(all, "; ")
}

// judge completes the history and has it checked.
func (l *lab) judge(c *client, out *outcome) {
	within(lease, func() bool { // the next heartbeat says that it holds nothing
		list, err := l.s.API().Workers(l.t.Context())
		return err == nil && !slices.ContainsFunc(list.Workers, func(w wire.WorkerInfo) bool { return w.Held > 0 })
	})
	run := c.id()
	if run == "" {
		out.wrong = append(out.wrong, "the client got no answer")
		return
	}
	c.h.Events = append(c.h.Events, l.s.Seen("timeline", run)...)
	effects, err := l.rec.Effects()
	if err != nil {
		l.t.Fatal(err)
	}
	c.h.Effects = slices.DeleteFunc(effects, func(e invariant.Effect) bool { return e.RunID != run })
	c.h.Tables = l.s.Tables().Of(c.op, run)
	for _, a := range c.h.Tables.Attempts {
		one := fmt.Sprintf("%s %s", a.ID, a.Status)
		if a.Verdict != nil {
			one += fmt.Sprintf(": %s %s", a.Verdict, a.Verdict.Message)
		}
		out.attempts = append(out.attempts, one)
	}
	out.broken = invariant.Check(c.h)
	if len(out.broken) > 0 {
		keep(l, c)
	}
}

// keep stores the history of a round that broke an invariant.
func keep(l *lab, c *client) {
	dir := os.Getenv("NOFX_KILLMATRIX_DIR")
	if dir == "" {
		return
	}
	f, err := os.Create(filepath.Join(dir, c.id()+".jsonl"))
	if err != nil {
		l.t.Error(err)
		return
	}
	defer f.Close()
	if err := c.h.Write(f); err != nil {
		l.t.Error(err)
	}
}
