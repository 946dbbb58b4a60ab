package killmatrix

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// place is a place in a step's life.
type place struct {
	title string
	point string        // that is held
	also  string        // another one that has to be held, so that the sandbox is there
	any   bool          // the point is no step's
	first string        // a point that is held before the run is submitted
	begun bool          // the point is armed once the step has written something
	stop  bool          // the run is cancelled then
	pass  bool          // the first one that comes by goes on
	ended bool          // the step's end must be known to the API first
	boxed bool          // the step has a sandbox
	early bool          // only the first step comes by it
	froze bool          // the victim is stopped first and the others go on: it dies with calls in hand
	slow  time.Duration // that the one takes to start that comes instead of the victim
	net   bool          // the step can reach the outside, and may not be repeated
}

// places are in the order in which a step comes by them.
func places() []place {
	return []place{
		{title: "run accepted, client not told", point: failpoint.RunCommitted, any: true, first: failpoint.Claim},
		{title: "claimed, not in the ledger", point: failpoint.Claimed},
		{title: "created, handle not persisted", point: failpoint.Created, boxed: true},
		{title: "in the middle of output", point: failpoint.Output, pass: true, boxed: true},
		{title: "exited, not reported", point: failpoint.Exited, boxed: true},
		{title: "between two artifact uploads", point: failpoint.Uploading, pass: true, boxed: true},
		{title: "workspace saved, not reported", point: failpoint.Saved, early: true, boxed: true},
		{title: "verdict stored, not committed", point: failpoint.VerdictStored, also: failpoint.Reported, boxed: true},
		{title: "verdict committed, worker not told", point: failpoint.VerdictCommitted, also: failpoint.Reported, boxed: true},
		{title: "reported, sandbox not destroyed", point: failpoint.Reported, ended: true, boxed: true},
		{title: "destroyed, still in the ledger", point: failpoint.Destroyed, ended: true},
		{title: "cancelled, the step not told", point: failpoint.Cancelling, begun: true, stop: true, boxed: true},
	}
}

// victim is a process that can be killed.
type victim struct {
	title string
	calm  time.Duration // it must have lived so long: one that dies sooner is started again after a pause
	pid   func(s *harness.System, p place) int
}

// calm is how long `nofx up` wants a process to live before it starts it again
// at once.
const calm = 20 * time.Second

// victims are in an order in which no two restart each other's children.
func victims() []victim {
	named := func(name string, calm time.Duration) victim {
		return victim{name, calm, func(s *harness.System, _ place) int { return s.Pid(name) }}
	}
	return []victim{
		named("nofx-api", calm), named("nofx-driver-local", 0),
		{"supervisor", 0, supervisor}, named("postgres", calm), named("nofxd", calm),
	}
}

// supervisor is that of the step's sandbox. Where the step has none, it is the
// one that makes them.
func supervisor(s *harness.System, p place) int {
	pids := s.Spawners()
	if p.boxed {
		pids = s.Supervisors()
	}
	if len(pids) != 1 {
		return 0 // one is about to go
	}
	return pids[0]
}

// age is how long a process has lived.
func age(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0 // it has just ended
	}
	up, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	const ticks = 100 // a second, the kernel's for all of /proc
	start, err1 := strconv.ParseFloat(strings.Fields(rest)[19], 64)
	now, err2 := strconv.ParseFloat(strings.Fields(string(up))[0], 64)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return time.Duration((now - start/ticks) * float64(time.Second))
}

// dead reports whether a process has ended, buried or not.
func dead(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

func signal(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("pid %d: %v", pid, err)
	}
}
