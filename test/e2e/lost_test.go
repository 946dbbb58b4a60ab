package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// A worker is stopped in mid-step and says nothing any more. Its sandbox is
// killed by its supervisor when the lease ends, another worker takes the step
// up within the lease + 5 s, and what the stopped one says later counts for
// nothing.
func TestStoppedWorker(t *testing.T) {
	t.Parallel()
	const lease = 6 * time.Second
	s := harness.Start(t, "NOFX_LEASE="+lease.String(), "NOFX_HEARTBEAT=1s")
	// What a step's processes are called tells them from those of other tests.
	mark := fmt.Sprintf("%d.25", 100_000+s.Pid("nofxd"))
	id := s.Submit(harness.Bash("count", "echo begun; sleep "+mark+" & for i in $(seq 100); do echo $i; sleep 0.1; done; kill $!"))
	s.WaitOutput(id, "count", "begun\n")
	s.AddWorker("second")

	s.Signal("nofxd", syscall.SIGSTOP)
	defer s.Signal("nofxd", syscall.SIGCONT)
	stopped := time.Now()
	if n := harness.Running("sleep " + mark); n == 0 {
		t.Fatal("the step's process is not there to begin with")
	}
	s.Eventually("the supervisor kills the stopped worker's sandbox", func() bool {
		return harness.Running("sleep "+mark) == 0 || time.Since(stopped) > lease+2*time.Second
	})
	if killed := time.Since(stopped); killed > lease+2*time.Second {
		t.Errorf("the stopped worker's sandbox lived for %v, the lease is %v", killed, lease)
	}
	s.Eventually("another worker takes the step up", func() bool {
		d, ok := s.Run(id)
		return ok && s.Step(d, "count").Attempt == 2
	})
	if took := time.Since(stopped); took > lease+5*time.Second {
		t.Errorf("taken up after %v", took)
	}
	detail := s.Wait(id)
	if detail.Run.Status != step.RunSucceeded {
		t.Fatalf("run %s: %+v", detail.Run.Status, detail.Steps)
	}
	before := len(s.Timeline(id))
	s.Signal("nofxd", syscall.SIGCONT)
	s.Eventually("the stopped worker finds out", func() bool { return harness.Running("sleep "+mark) == 0 })
	again := s.Wait(id)
	if after := len(s.Timeline(id)); after != before || again.Run.Status != step.RunSucceeded {
		t.Errorf("the stopped worker changed the run: %d events, then %d", before, after)
	}
	got, _ := s.Output(id, s.Step(again, "count").ID)
	if n := strings.Count(got, "begun\n"); n != 1 || !strings.Contains(got, "\n100\n") {
		t.Errorf("output of the attempt that counts: %q", got)
	}
	for i, e := range s.Timeline(id) {
		if e.Seq != int64(i+1) {
			t.Errorf("event %d has number %d", i+1, e.Seq)
		}
	}
}
