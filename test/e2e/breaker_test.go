package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/configs"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// exitManifest is a tool that ends as it is told, and whose breaker tries again soon.
const exitManifest = `tool: test:exit
description: Ends with the code that it is given.
driver: local
resources: {cpu: 1, memory_mb: 128, pids: 32, output_kb: 1024}
timeout_ms: 30000
inputs: {type: object, required: [code], properties: {code: {type: integer, minimum: 0, maximum: 255}}}
command: {argv: [/bin/sh, -c, "exit $0", {input: code}]}
shown: exit
outputs: shell
breaker: {consecutive: 2, counts: [exit], cooldown_ms: 1500, probe_ms: 20000}
`

// breakerOf is a tool's breaker on local, as `nofx handlers` knows it.
func breakerOf(t *testing.T, s *harness.System, tool string) wire.BreakerInfo {
	t.Helper()
	var list wire.HandlerList
	r := s.Nofx(t.TempDir(), "handlers", "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil || r.Code != 0 {
		t.Fatalf("code %d, %v: %s", r.Code, err, r.Stderr)
	}
	for _, h := range list.Handlers {
		for _, b := range h.Breakers {
			if h.Tool == tool && b.Driver == "local" {
				return b
			}
		}
	}
	t.Fatalf("no breaker of %s: %s", tool, r.Stdout)
	return wire.BreakerInfo{}
}

// The breakers' part of plan 9 and what belongs to it: failures open a breaker,
// the next step waits or fails as it says, a reset closes it, and so does a
// probe after the cool-down.
func TestBreakers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	shipped, err := configs.Handlers()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, shipped); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "test-exit.yaml"), []byte(exitManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	s := harness.Start(t, "NOFX_HANDLERS_DIR="+dir, "NOFX_HEARTBEAT=1s", "NOFX_LEASE=20s")

	t.Run("failures open it, a reset closes it", func(t *testing.T) {
		once := wire.PlanStep{Name: "load", Tool: "test:fail", Inputs: json.RawMessage(`{"feed":"warehouse-7"}`), Retry: &wire.Retry{Attempts: 1}}
		for range 3 {
			if d := s.Wait(s.Submit(once)); d.Run.Status != step.RunFailed {
				t.Fatalf("%+v", d)
			}
		}
		s.Eventually("the breaker opens", func() bool { return breakerOf(t, s, "test:fail").State == "open" })
		waiting := s.Submit(once)
		s.Eventually("it says what it waits for", func() bool {
			d, ok := s.Run(waiting)
			return ok && d.Steps[0].Status == step.StepQueued && strings.HasPrefix(d.Steps[0].WaitingFor, "the breaker of test:fail on local, open until ")
		})
		fast := once
		fast.OnOpen = wire.OnOpenFail
		d := s.Wait(s.Submit(fast))
		if v := d.Steps[0].Verdict; d.Run.Status != step.RunFailed || d.Steps[0].Attempt != 0 || v == nil || v.Cause != step.CauseDriverError ||
			v.Message != "the breaker of test:fail on local is open: 3 failures in a row" {
			t.Errorf("the one that does not wait: %+v", d)
		}
		table := s.Nofx(t.TempDir(), "handlers")
		if !strings.Contains(table.Stdout, "test:fail on local: open until ") || !strings.Contains(table.Stdout, "3 failures in a row") {
			t.Errorf("%s", table.Stdout)
		}
		if d, ok := s.Run(waiting); !ok || d.Steps[0].Status != step.StepQueued || d.Steps[0].Attempt != 0 {
			t.Errorf("the one that waits: %+v", d)
		}
		if r := s.Nofx(t.TempDir(), "handlers", "reset", "test:fail", "--reason", "mended"); r.Code != 0 || r.Stdout != "test:fail on local: closed\n" {
			t.Fatalf("code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		if d := s.Wait(waiting); d.Steps[0].Attempt != 1 || d.Steps[0].Verdict.Cause != step.CauseExit {
			t.Errorf("after the reset: %+v", d)
		}
	})

	t.Run("a probe closes it after the cool-down", func(t *testing.T) {
		ends := func(code string) wire.PlanStep {
			return wire.PlanStep{Name: "a", Tool: "test:exit", Inputs: json.RawMessage(`{"code":` + code + `}`), Retry: &wire.Retry{Attempts: 1}}
		}
		for range 2 {
			s.Wait(s.Submit(ends("1")))
		}
		s.Eventually("the breaker opens", func() bool { return breakerOf(t, s, "test:exit").Opens > 0 })
		var runs []string
		for range 3 {
			runs = append(runs, s.Submit(ends("0")))
		}
		for _, id := range runs {
			if d := s.Wait(id); d.Run.Status != step.RunSucceeded {
				t.Errorf("%+v", d)
			}
		}
		if b := breakerOf(t, s, "test:exit"); b.State != "closed" || b.Reason != "a probe was good" {
			t.Errorf("%+v", b)
		}
		var list wire.BreakerEvents
		r := s.Nofx(t.TempDir(), "handlers", "events", "--json")
		if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
			t.Fatal(err)
		}
		var types []step.EventType
		for _, e := range slices.Backward(list.Events) {
			if e.Tool == "test:exit" {
				types = append(types, e.Type)
			}
		}
		want := []step.EventType{step.EventBreakerOpened, step.EventBreakerHalfOpen, step.EventBreakerClosed}
		if diff := cmp.Diff(want, types); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("an operator forces it", func(t *testing.T) {
		if r := s.Nofx(t.TempDir(), "handlers", "force-open", "test:echo", "--driver", "local"); r.Code != 0 {
			t.Fatalf("code %d: %s", r.Code, r.Stderr)
		}
		waiting := s.Submit(wire.PlanStep{Name: "a", Tool: "test:echo"})
		s.Eventually("it waits", func() bool {
			d, ok := s.Run(waiting)
			return ok && d.Steps[0].WaitingFor == "the breaker of test:echo on local, which an operator has opened"
		})
		if r := s.Nofx(t.TempDir(), "handlers", "force-close", "test:echo"); r.Code != 0 {
			t.Fatalf("code %d: %s", r.Code, r.Stderr)
		}
		if d := s.Wait(waiting); d.Run.Status != step.RunSucceeded {
			t.Errorf("%+v", d)
		}
	})

	// The container driver is off here: no worker has it.
	t.Run("a step goes on to its next driver", func(t *testing.T) {
		d := s.Wait(s.Submit(wire.PlanStep{Name: "a", Tool: "test:echo", Drivers: []string{"container", "local"}, Inputs: json.RawMessage(`{"n":3}`)}))
		a := d.Steps[0]
		if d.Run.Status != step.RunSucceeded || a.Driver != "local" || a.Fallback != "no worker has the driver container healthy" {
			t.Fatalf("%+v", d)
		}
		var told []string
		for _, e := range s.Timeline(d.Run.ID) {
			if e.Type == step.EventStepFallback {
				told = append(told, e.Payload["reason"].(string))
			}
		}
		if diff := cmp.Diff([]string{a.Fallback}, told); diff != "" {
			t.Error(diff)
		}
	})
}
