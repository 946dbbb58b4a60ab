package queue

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	exit := func(code int) step.Verdict { return step.Verdict{Cause: step.CauseExit, ExitCode: &code} }
	end := func(c step.Cause) step.Verdict { return step.Verdict{Cause: c} }
	began := time.Now()
	none, open := string(step.NetworkNone), string(step.NetworkOpen)
	for name, tc := range map[string]struct {
		row       attemptRow
		policy    wire.Retry
		left      int
		cancelled bool
		v         step.Verdict
		retry     bool
		status    step.Status
		dead      bool
		why       string
	}{
		"green":                  {row: attemptRow{Number: 1, Tries: 3}, left: 9, v: exit(0), status: step.StepSucceeded},
		"red, once":              {row: attemptRow{Number: 1, Tries: 1}, left: 9, v: exit(7), status: step.StepFailed, why: "all of its 1 attempts failed"},
		"red, tried again":       {row: attemptRow{Number: 1, Tries: 3}, left: 9, v: exit(7), retry: true, status: step.StepFailed},
		"red, the last":          {row: attemptRow{Number: 3, Tries: 3}, left: 9, v: exit(7), status: step.StepFailed, dead: true, why: "all of its 3 attempts failed"},
		"losses are not its own": {row: attemptRow{Number: 3, Losses: 1, Tries: 3}, left: 9, v: exit(7), retry: true, status: step.StepFailed},
		"out of time":            {row: attemptRow{Number: 1, Tries: 2}, left: 9, v: end("timeout"), retry: true, status: step.StepTimedOut},
		"not that code, at first": {row: attemptRow{Number: 1, Tries: 3}, policy: wire.Retry{NeverExitCodes: []int{2}}, left: 9, v: exit(2),
			status: step.StepFailed, why: "its policy does not try exit 2 again"},
		"not that code, later": {row: attemptRow{Number: 2, Tries: 3}, policy: wire.Retry{ExitCodes: []int{75}}, left: 9, v: exit(2),
			status: step.StepFailed, dead: true, why: "its policy does not try exit 2 again"},
		"no budget":                {row: attemptRow{Number: 1, Tries: 3}, left: 0, v: exit(7), status: step.StepFailed, dead: true, why: "the retry budget of the run is used up"},
		"red and no budget":        {row: attemptRow{Number: 1, Tries: 1}, left: 0, v: exit(7), status: step.StepFailed, why: "all of its 1 attempts failed"},
		"lost, unstarted":          {row: attemptRow{Number: 1, Tries: 1, Network: open}, left: 9, v: end("lost"), retry: true, status: step.StepFailed},
		"lost, apart":              {row: attemptRow{Number: 1, Tries: 1, Network: none, StartedAt: &began}, left: 9, v: end("lost"), retry: true, status: step.StepFailed},
		"lost, may be repeated":    {row: attemptRow{Number: 1, Tries: 1, Network: open, StartedAt: &began, Idempotent: true}, left: 9, v: end("lost"), retry: true, status: step.StepFailed},
		"lost, may have been seen": {row: attemptRow{Number: 1, Tries: 1, Network: open, StartedAt: &began}, left: 9, v: end("lost"), status: step.StepFailed, dead: true, why: "may have touched the outside"},
		"lost, policy cannot allow": {row: attemptRow{Number: 1, Tries: 5, Network: open, StartedAt: &began}, policy: wire.Retry{On: []step.Cause{"lost"}}, left: 9, v: end("lost"),
			status: step.StepFailed, dead: true, why: "may have touched the outside"},
		"lost, third time": {row: attemptRow{Number: 3, Losses: 2, Tries: 9}, left: 9, v: end("driver_error"), status: step.StepFailed, dead: true, why: "infrastructure ended 3 attempts"},
		"lost, more by policy": {row: attemptRow{Number: 3, Losses: 2, Tries: 9}, policy: wire.Retry{On: []step.Cause{"driver_error"}}, left: 9, v: end("driver_error"),
			retry: true, status: step.StepFailed},
		"lost, fewer by policy": {row: attemptRow{Number: 2, Losses: 1, Tries: 2}, policy: wire.Retry{On: []step.Cause{"driver_error"}}, left: 9, v: end("driver_error"),
			status: step.StepFailed, dead: true, why: "infrastructure ended 2 attempts"},
		"lost, never by policy": {row: attemptRow{Number: 1, Tries: 9}, policy: wire.Retry{NeverOn: []step.Cause{"driver_error"}}, left: 9, v: end("driver_error"),
			status: step.StepFailed, dead: true, why: "its policy never tries driver_error again"},
		"lost, no budget":      {row: attemptRow{Number: 1, Tries: 1}, left: 0, v: end("lost"), status: step.StepFailed, dead: true, why: "the retry budget of the run is used up"},
		"lost, and cancelled":  {row: attemptRow{Number: 1, Tries: 3}, left: 9, cancelled: true, v: end("lost"), status: step.StepCancelled},
		"red, and cancelled":   {row: attemptRow{Number: 1, Tries: 3}, left: 9, cancelled: true, v: exit(7), status: step.StepFailed},
		"refused by policy":    {row: attemptRow{Number: 1, Tries: 3}, left: 9, v: end("policy"), status: step.StepFailed},
		"cancelled on request": {row: attemptRow{Number: 1, Tries: 3}, left: 9, v: end("cancelled"), status: step.StepCancelled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := json.Marshal(tc.policy)
			if err != nil {
				t.Fatal(err)
			}
			tc.row.Retry = raw
			d, err := decide(tc.row, tc.cancelled, tc.left, tc.v)
			if err != nil || d.retry != tc.retry || d.status != tc.status || d.dead != tc.dead || !strings.Contains(d.why, tc.why) || d.why != "" && tc.why == "" {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
}

// What a driver asks for is waited for, however short the policy's own wait.
func TestDecideWaits(t *testing.T) {
	t.Parallel()
	row := attemptRow{Number: 1, Tries: 3, BackoffMs: 20, Retry: []byte(`{"max_backoff_ms":50}`)}
	code := 1
	for range 200 {
		d, err := decide(row, false, 9, step.Verdict{Cause: step.CauseExit, ExitCode: &code})
		if err != nil || d.wait < 0 || d.wait > 20*time.Millisecond {
			t.Fatalf("%+v, %v", d, err)
		}
		row.Number = 2
		if d, err = decide(row, false, 9, step.Verdict{Cause: step.CauseExit, ExitCode: &code}); err != nil || d.wait > 40*time.Millisecond {
			t.Fatalf("%+v, %v", d, err)
		}
		row.Number = 1
		if d, err = decide(row, false, 9, step.Verdict{Cause: step.CauseDriverError, RetryAfterMS: 3_600_000}); err != nil || d.wait != time.Hour {
			t.Fatalf("%+v, %v", d, err)
		}
	}
}
