package wake

import (
	"log/slog"
	"testing"
)

func woken(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// One claim is woken for as many steps as it takes; the next for what is more.
func TestOneClaimIsWokenForWhatItTakes(t *testing.T) {
	t.Parallel()
	h := New()
	a, leaveA := h.WaitClaim("a", []string{"local"}, make([]string, 1), 2)
	b, leaveB := h.WaitClaim("b", []string{"local"}, make([]string, 1), 2)
	defer leaveB()
	h.Queued("local", "", "")
	h.Queued("local", "", "")
	if !woken(a) || woken(b) {
		t.Fatal("not the first alone is woken for two steps")
	}
	h.Queued("local", "", "")
	if woken(a) || !woken(b) {
		t.Error("the second is not woken for the third step")
	}
	leaveA()
}

// Who is about to look takes the wakes of what it will see, and no others.
func TestGatherTakesWakes(t *testing.T) {
	t.Parallel()
	h := New()
	done := h.Gather("a", []string{"local"}, make([]string, 1), 10)
	b, leave := h.WaitClaim("b", []string{"local", "container"}, make([]string, 2), 10)
	defer leave()
	h.Queued("local", "", "")
	if woken(b) {
		t.Error("another is woken for a step that a claim is about to see")
	}
	h.Queued("container", "", "")
	if !woken(b) {
		t.Error("nobody is woken for a step that the claim cannot take")
	}
	done()
}

// A step for one worker wakes that worker, though another is about to look.
func TestPinnedStepWakesItsWorker(t *testing.T) {
	t.Parallel()
	h := New()
	defer h.Gather("a", []string{"local"}, make([]string, 1), 10)()
	b, leave := h.WaitClaim("b", []string{"local"}, make([]string, 1), 10)
	defer leave()
	h.Queued("local", "", "b")
	if !woken(b) {
		t.Error("the worker is not woken for its own step")
	}
}

// Room is told to the other replicas, too, and wakes one claim of each.
func TestRoomWakesOneEverywhere(t *testing.T) {
	t.Parallel()
	h, other := New(), New()
	relay := &Relay{Hub: other, Replica: "other", Log: slog.New(slog.DiscardHandler)}
	for _, x := range []*Hub{h, other} {
		a, leaveA := x.WaitClaim("a", []string{"local"}, make([]string, 1), 1)
		b, leaveB := x.WaitClaim("b", []string{"local"}, make([]string, 1), 1)
		defer leaveA()
		defer leaveB()
		if x == h {
			h.Room()
		} else {
			relay.Receive("me\n" + <-h.out)
		}
		if !woken(a) || woken(b) {
			t.Error("not just the first is woken")
		}
	}
}

// A wake that a claim leaves behind goes to one that has its drivers.
func TestWakeIsPassedOn(t *testing.T) {
	t.Parallel()
	h := New()
	_, leaveA := h.WaitClaim("a", []string{"local"}, make([]string, 1), 1)
	other, leaveOther := h.WaitClaim("c", []string{"e2b"}, make([]string, 1), 1)
	defer leaveOther()
	b, leaveB := h.WaitClaim("b", []string{"local"}, make([]string, 1), 1)
	defer leaveB()
	h.Queued("local", "", "")
	leaveA()
	if !woken(b) || woken(other) {
		t.Error("the wake did not go to the one with that driver")
	}
}

// That a workspace is free is told to whoever waits for it, here and at other
// replicas, and wakes a claim of its worker then; where nobody waits, none.
func TestVacatedWakesTheWorker(t *testing.T) {
	t.Parallel()
	h, other := New(), New()
	relay := &Relay{Hub: other, Replica: "other", Log: slog.New(slog.DiscardHandler)}
	for _, x := range []*Hub{h, other} {
		tell := func() {
			h.Vacated("run_1", "b")
			topic := <-h.out
			if x == other {
				relay.Receive("me\n" + topic)
			}
		}
		a, leaveA := x.WaitClaim("a", []string{"local"}, make([]string, 1), 1)
		b, leaveB := x.WaitClaim("b", []string{"local"}, make([]string, 1), 1)
		elsewhere, leaveElsewhere := x.Wait(Workspace("run_2"))
		tell()
		if woken(a) || woken(b) || woken(elsewhere) {
			t.Error("woken though nobody waits for it")
		}
		free, leave := x.Wait(Workspace("run_1"))
		tell()
		if woken(a) || !woken(b) || woken(elsewhere) || !woken(free) {
			t.Error("not its worker and who waits for it")
		}
		leave()
		leaveElsewhere()
		leaveA()
		leaveB()
	}
}
