package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(bareVar); dir != "" {
		fmt.Fprintln(os.Stderr, serveBare(dir))
		os.Exit(1)
	}
	fmt.Println(Machine())
	os.Exit(m.Run())
}

func trueStep(name string) wire.PlanStep {
	return wire.PlanStep{Name: name, Tool: "exec", Workspace: step.WorkspaceStep, Inputs: json.RawMessage(`{"argv":["/bin/true"]}`)}
}

func echoStep(name string) wire.PlanStep {
	return wire.PlanStep{Name: name, Tool: "test:echo", Workspace: step.WorkspaceStep, Inputs: json.RawMessage(`{"msg":"hello"}`)}
}

// finish is complete where nobody asks for the run afterwards.
func finish(ctx context.Context, s *harness.System, steps ...wire.PlanStep) error {
	_, err := complete(ctx, s, steps...)
	return err
}

// complete submits a run and returns when its terminal event has arrived over
// the event stream.
func complete(ctx context.Context, s *harness.System, steps ...wire.PlanStep) (id string, err error) {
	run, err := s.API().Submit(ctx, wire.SubmitRun{Plan: wire.Plan{Goal: "bench", Steps: steps}}, "")
	if err != nil {
		return "", err
	}
	var end step.EventType
	err = s.API().Events(ctx, run.ID, "", func(batch []step.Event) error {
		for _, e := range batch {
			switch e.Type {
			case step.EventRunSucceeded, step.EventRunFailed, step.EventRunCancelled:
				end = e.Type
			}
		}
		return nil
	})
	if err == nil && end != step.EventRunSucceeded {
		err = fmt.Errorf("run %s ended with %q", run.ID, end)
	}
	return run.ID, err
}

// BenchmarkThroughput is 2,000 steps in 20 runs, submitted at once.
func BenchmarkThroughput(b *testing.B) {
	for name, of := range map[string]func(string) wire.PlanStep{"exec": trueStep, "echo": echoStep} {
		b.Run(name, func(b *testing.B) {
			const runs, perRun = 20, 100
			s := harness.Start(b)
			if err := finish(b.Context(), s, of("warm-up")); err != nil {
				b.Fatal(err)
			}
			var steps []wire.PlanStep
			for i := range perRun {
				steps = append(steps, of(fmt.Sprint("s", i)))
			}
			var mu sync.Mutex
			var each Sample
			var group sync.WaitGroup
			start := time.Now()
			for range runs {
				group.Go(func() {
					begun := time.Now()
					err := finish(b.Context(), s, steps...)
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						each.Failed++
						b.Log(err)
						return
					}
					each.Times = append(each.Times, time.Since(begun))
				})
			}
			group.Wait()
			b.ReportMetric(runs*perRun/time.Since(start).Seconds(), "steps/s")
			b.ReportMetric(each.Quantile(0.5), "run-p50-ms")
			b.ReportMetric(each.Quantile(0.99), "run-p99-ms")
			b.ReportMetric(float64(each.Failed), "failed")
			b.ReportMetric(0, "ns/op")
			memory(b, s)
		})
	}
}

// used is the processor time of a system but for its sandboxes; the driver is a
// child of nofxd's.
func used(s *harness.System) func() time.Duration {
	return func() (sum time.Duration) {
		for _, name := range []string{"postgres", "nofx-api", "nofxd"} {
			sum += CPU(s.Pid(name))
		}
		return sum
	}
}

func memory(b *testing.B, s *harness.System) {
	b.Helper()
	b.ReportMetric(RSS(s.Pid("nofxd")), "nofxd-MiB")
	b.ReportMetric(RSS(s.Pid("nofx-api")), "nofx-api-MiB")
	b.ReportMetric(RSS(s.Pid("nofx-driver-local")), "driver-MiB")
}
