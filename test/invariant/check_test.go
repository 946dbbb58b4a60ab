package invariant_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	. "github.com/nofx-run/nofx/test/invariant"
)

// good is a run of two steps: the first was lost once and retried, the second
// failed twice and is in the DLQ; and one that was cancelled.
func good() History {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	exit := func(code int) *step.Verdict {
		return &step.Verdict{Cause: step.CauseExit, ExitCode: &code, Attested: step.AttestedKernel}
	}
	lost := &step.Verdict{Cause: step.CauseLost, Attested: step.AttestedKernel}
	a1 := exit(0)
	a1.Output.StoredBytes = 10
	h := History{
		Submits: []Submit{
			{Op: "op-1", Key: "k1", Steps: []string{"a", "b"}},
			{Op: "op-1", Key: "k1", Steps: []string{"a", "b"}, Answered: true, RunID: "run_1", Answer: `{"id":"run_1"}`},
			{Op: "op-1", Key: "k1", Steps: []string{"a", "b"}, Answered: true, RunID: "run_1", Answer: `{"id":"run_1"}`},
			{Op: "op-2", Steps: []string{"c"}, Answered: true, RunID: "run_2", Answer: `{"id":"run_2"}`},
		},
		Cancels: []Cancel{{RunID: "run_2", Answered: true}},
		Actions: []Action{{"dlq.discard", "dead_1"}},
		Outputs: []Output{{RunID: "run_1", StepID: "s_a", Text: "a line 1\n", Want: "a line 1\n"}},
		States:  []State{{"run_1", "s_a", 1, step.StepRunning}, {"run_1", "s_a", 1, step.StepSucceeded}, {"run_1", "s_a", 1, step.StepSucceeded}},
		Effects: []Effect{
			{"run_1", "a", "x1", EffectBegin, 100}, {"run_1", "a", "x1", EffectBeat, 100.5},
			{"run_1", "a", "x2", EffectBegin, 101}, {"run_1", "a", "x2", EffectEnd, 102},
			{"run_1", "b", "x3", EffectBegin, 103}, {"run_1", "b", "x3", EffectEnd, 104},
		},
		Looks: []Look{{Host: "h"}},
		Held:  []Held{{What: "slots"}},
	}
	h.Tables = Tables{
		Runs: []RunRow{
			{ID: "run_1", Goal: "op-1", Status: step.RunFailed, NextSeq: 18},
			{ID: "run_2", Goal: "op-2", Status: step.RunCancelled, NextSeq: 5, CancelAt: &now},
		},
		Steps: []StepRow{
			{ID: "s_a", RunID: "run_1", Name: "a", Status: step.StepSucceeded, Generation: 1, Attempt: 2, Epoch: 2, Verdict: exit(0)},
			{ID: "s_b", RunID: "run_1", Name: "b", Status: step.StepFailed, Generation: 1, Attempt: 2, Epoch: 3, Verdict: exit(1)},
			{ID: "s_c", RunID: "run_2", Name: "c", Status: step.StepCancelled, Generation: 1},
		},
		Attempts: []AttemptRow{
			{ID: "at_1", RunID: "run_1", StepID: "s_a", Generation: 1, Number: 1, Epoch: 1, Status: "lost", JournalN: 2, EndedAt: &now, Verdict: lost},
			{ID: "at_2", RunID: "run_1", StepID: "s_a", Generation: 1, Number: 2, Epoch: 2, Status: "ended", JournalN: 3, OutputBytes: 10, EndedAt: &now, Verdict: a1},
			{ID: "at_3", RunID: "run_1", StepID: "s_b", Generation: 1, Number: 1, Epoch: 1, Status: "ended", JournalN: 2, EndedAt: &now, Verdict: exit(1)},
			{ID: "at_4", RunID: "run_1", StepID: "s_b", Generation: 1, Number: 2, Epoch: 2, Status: "released", EndedAt: &now},
			{ID: "at_5", RunID: "run_1", StepID: "s_b", Generation: 1, Number: 2, Epoch: 3, Status: "ended", JournalN: 2, EndedAt: &now, Verdict: exit(1)},
		},
		Dead: []DeadRow{{ID: "dead_1", StepID: "s_b", Generation: 1}},
		Audit: []AuditRow{
			{1, "run.create", "run_1", "allowed"}, {2, "run.create", "run_2", "allowed"}, {3, "run.cancel", "run_2", "allowed"}, {4, "dlq.discard", "dead_1", "allowed"},
		},
		Idempotency: []IdempotencyRow{{TenantID: "t", Route: "r", Key: "k1", Body: `{"id":"run_1"}`}},
		Artifacts:   []ArtifactRow{{AttemptID: "at_2", StepID: "s_a", Name: "out"}},
		Output:      []OutputRow{{"at_2", 0, 4}, {"at_2", 4, 6}},
		Workers:     []WorkerRow{{ID: "w_1", Name: "w", Status: "live"}},
	}
	tell := func(run, id string, attempt int, types ...step.EventType) {
		for _, t := range types {
			n := 1
			for _, e := range h.Tables.Events {
				if e.RunID == run {
					n++
				}
			}
			e := EventRow{RunID: run, Seq: int64(n), Type: t, StepID: id, Attempt: attempt}
			h.Tables.Events = append(h.Tables.Events, e)
			h.Events = append(h.Events, Seen{Reader: "timeline", RunID: run, Seq: e.Seq, ID: run + "." + string(rune('a'+n)), Type: t, StepID: id, Attempt: attempt})
		}
	}
	tell("run_1", "", 0, step.EventRunCreated)
	tell("run_1", "s_a", 0, step.EventStepEnqueued)
	tell("run_1", "", 0, step.EventRunStarted)
	tell("run_1", "s_a", 1, step.EventStepStarted, step.EventStepFinished, step.EventStepRetry)
	tell("run_1", "s_a", 2, step.EventStepStarted, step.EventStepFinished, step.EventStepSucceeded)
	tell("run_1", "s_b", 0, step.EventStepEnqueued)
	tell("run_1", "s_b", 1, step.EventStepFinished, step.EventStepRetry)
	tell("run_1", "s_b", 2, step.EventStepStarted, step.EventStepFinished, step.EventStepFailed, step.EventStepDead)
	tell("run_1", "", 0, step.EventRunFailed)
	tell("run_2", "", 0, step.EventRunCreated)
	tell("run_2", "s_c", 0, step.EventStepEnqueued, step.EventStepCancelled)
	tell("run_2", "", 0, step.EventRunCancelled)
	return h
}

func TestGoodHistory(t *testing.T) {
	t.Parallel()
	for _, v := range Check(good()) {
		t.Error(v)
	}
}

// An empty history proves nothing, and neither does one that lacks the evidence
// for one invariant.
func TestNothingProven(t *testing.T) {
	t.Parallel()
	var got []string
	for _, v := range Check(History{}) {
		got = append(got, v.Invariant)
	}
	if diff := cmp.Diff([]string{"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9"}, got); diff != "" {
		t.Error(diff)
	}
	for invariant, without := range map[string]func(*History){
		"I3": func(h *History) { h.Effects = nil },
		"I4": func(h *History) { h.Looks = nil },
		"I8": func(h *History) { h.Tables.Workers, h.Held = nil, nil },
		"I9": func(h *History) {
			h.Submits = slices.DeleteFunc(h.Submits, func(s Submit) bool { return s.Key != "" })
		},
	} {
		h := good()
		without(&h)
		if all := Check(h); Invariants(all) != invariant+"×1" || !strings.Contains(all[0].What, "nothing proven") {
			t.Errorf("without the evidence for %s: %v", invariant, all)
		}
	}
}

// dropEvent takes an event out of a run and numbers the others anew, so that
// nothing but its absence can be seen.
func dropEvent(h *History, run string, at int) {
	h.Events = nil
	all := h.Tables.Events
	h.Tables.Events = nil
	for _, e := range all {
		switch {
		case e.RunID == run && e.Seq == int64(at):
			continue
		case e.RunID == run && e.Seq > int64(at):
			e.Seq--
		}
		h.Tables.Events = append(h.Tables.Events, e)
	}
	for i := range h.Tables.Runs {
		if h.Tables.Runs[i].ID == run {
			h.Tables.Runs[i].NextSeq--
		}
	}
}

// addEvent puts one behind all others of the first run.
func addEvent(h *History, e EventRow) {
	e.RunID, e.Seq = "run_1", h.Tables.Runs[0].NextSeq
	h.Tables.Runs[0].NextSeq++
	h.Tables.Events = append(h.Tables.Events, e)
}

func TestViolations(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		invariant string
		spoil     func(*History)
		what      string
	}{
		"a run is lost": {"I1", func(h *History) {
			h.Submits = append(h.Submits, Submit{Op: "op-3", Steps: []string{"a"}, Answered: true, RunID: "run_3"})
		}, "run_3"},
		"a step is lost": {"I1", func(h *History) { h.Submits[3].Steps = []string{"c", "d"} }, "step d of run run_2"},
		"a step does not end": {"I1", func(h *History) {
			h.Tables.Steps[2].Status, h.Tables.Runs[1].Status = step.StepRunning, step.RunRunning
		}, "s_c"},
		"a step ends twice":     {"I2", func(h *History) { addEvent(h, EventRow{Type: step.EventStepFailed, StepID: "s_a", Attempt: 2}) }, "ended 2 times"},
		"an end without event":  {"I2", func(h *History) { dropEvent(h, "run_2", 3) }, "without an event"},
		"event and row differ":  {"I2", func(h *History) { h.Tables.Steps[1].Status = step.StepTimedOut }, "its row says timed_out"},
		"a run ends twice":      {"I2", func(h *History) { addEvent(h, EventRow{Type: step.EventRunFailed}) }, "run_1 has ended twice"},
		"an attempt ends twice": {"I2", func(h *History) { addEvent(h, EventRow{Type: step.EventStepFinished, StepID: "s_b", Attempt: 2}) }, "2 events of its end"},
		"no verdict":            {"I2", func(h *History) { h.Tables.Attempts[2].Verdict = nil }, "at_3 is ended and has no verdict"},
		"a state that changes":  {"I2", func(h *History) { h.States[1].Status = step.StepFailed }, "was seen as"},
		"effects overlap":       {"I3", func(h *History) { h.Effects[2].At = 100.2 }, "execution x1 was alive until 100.50"},
		"executed too often": {"I3", func(h *History) {
			h.Effects = append(h.Effects, Effect{"run_1", "a", "x4", EffectBegin, 200})
		}, "executed 3 times in 2 attempts"},
		"executed and not there": {"I3", func(h *History) { h.Effects[0].Step = "z" }, "step z"},
		"two of one epoch":       {"I3", func(h *History) { h.Tables.Attempts[4].Epoch = 2 }, "the same epoch 2"},
		"a stale verdict counts": {"I3", func(h *History) {
			h.Tables.Attempts[0].Status, h.Tables.Attempts[1].Status = "ended", "lost"
			h.Tables.Artifacts = nil
		}, "its newest attempt at_2 is lost"},
		"a stale event": {"I3", func(h *History) {
			addEvent(h, EventRow{Type: "step.note", StepID: "s_b", Attempt: 1})
		}, "is of attempt 1, when attempt 2 had begun"},
		"an artifact of a lost attempt": {"I3", func(h *History) { h.Tables.Artifacts[0].AttemptID = "at_1" }, "at_1"},
		"a process is left":             {"I4", func(h *History) { h.Looks[0].Left = []string{"process 77 sleep"} }, "process 77"},
		"an event is missing":           {"I5", func(h *History) { h.Tables.Events = slices.Delete(h.Tables.Events, 2, 3); h.Events = nil }, "event number 3"},
		"an event is there twice":       {"I5", func(h *History) { h.Tables.Events[5].Seq = 5; h.Events = nil }, "event number 6 has the number 5"},
		"a number too many":             {"I5", func(h *History) { h.Tables.Runs[0].NextSeq++ }, "gives out the number 19"},
		"a reader with a gap":           {"I5", func(h *History) { h.Events = slices.Delete(h.Events, 1, 2) }, "got event 3 after 1"},
		"a reader in disorder":          {"I5", func(h *History) { h.Events[1], h.Events[2] = h.Events[2], h.Events[1] }, "got event 3 after 1"},
		"a reader sees another":         {"I5", func(h *History) { h.Events[1].Type = step.EventStepFailed }, "got event 2 as step.failed"},
		"a gap in the output":           {"I5", func(h *History) { h.Tables.Output[1].Start, h.Tables.Output[1].Length = 5, 5 }, "a piece of output at 5"},
		"output is missing":             {"I5", func(h *History) { h.Tables.Output = h.Tables.Output[:1] }, "10 bytes of output, 4 are stored"},
		"output twice":                  {"I5", func(h *History) { h.Outputs[0].Text += "a line 1\n" }, "18 bytes, expected 9"},
		"the verdict saw more": {"I5", func(h *History) {
			h.Tables.Attempts[1].OutputBytes, h.Tables.Output = 4, h.Tables.Output[:1]
		}, "its verdict says 10 bytes"},
		"not in the DLQ":      {"I6", func(h *History) { h.Tables.Dead = nil; h.Actions = nil; dropEvent(h, "run_1", 16) }, "not in the DLQ"},
		"twice in the DLQ":    {"I6", func(h *History) { h.Tables.Dead = append(h.Tables.Dead, DeadRow{"dead_2", "s_b", 1}) }, "in the DLQ 2 times"},
		"wrongly in the DLQ":  {"I6", func(h *History) { h.Tables.Dead = append(h.Tables.Dead, DeadRow{"dead_2", "s_a", 1}) }, "ended as succeeded"},
		"no row of a run":     {"I7", func(h *History) { h.Tables.Audit = h.Tables.Audit[1:] }, "run_1"},
		"no row of a cancel":  {"I7", func(h *History) { h.Tables.Audit = slices.Delete(h.Tables.Audit, 2, 3) }, "run_2 was cancelled"},
		"no row of an action": {"I7", func(h *History) { h.Tables.Audit = h.Tables.Audit[:3] }, "dlq.discard of dead_1"},
		"a row of nothing": {"I7", func(h *History) {
			h.Tables.Audit = append(h.Tables.Audit, AuditRow{5, "run.create", "run_9", "allowed"})
		}, "run_9"},
		"a lease is held": {"I8", func(h *History) {
			h.Tables.Attempts = append(h.Tables.Attempts, AttemptRow{ID: "at_6", StepID: "s_c", Status: "running"})
		}, "at_6"},
		"a worker is busy": {"I8", func(h *History) { h.Tables.Workers[0].Held = 1 }, "w_1"},
		"a slot is held":   {"I8", func(h *History) { h.Held[0].N = 2 }, "2 of slots"},
		"two runs of one key": {"I9", func(h *History) {
			h.Tables.Runs[1].Goal = "op-1"
		}, "made 2 runs"},
		"another answer":     {"I9", func(h *History) { h.Submits[2].Answer = "other" }, "key k1 was answered with"},
		"a forgotten key":    {"I9", func(h *History) { h.Tables.Idempotency = nil }, "not remembered"},
		"a key of something": {"I9", func(h *History) { h.Tables.Idempotency[0].Body = `{"id":"run_7"}` }, "run_7"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			h := good()
			tc.spoil(&h)
			all := Check(h)
			if !slices.ContainsFunc(all, func(v Violation) bool { return v.Invariant == tc.invariant && strings.Contains(v.What, tc.what) }) {
				t.Errorf("no violation of %s with %q: %v", tc.invariant, tc.what, all)
			}
		})
	}
}

func TestWriteAndRead(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := good().Write(&b); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(good(), got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"{", `{"kind":"nosuch","data":{}}`, `{"kind":"look","data":7}`} {
		if _, err := Read(strings.NewReader(bad)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}
