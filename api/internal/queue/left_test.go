package queue

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A step is left to others for a while, then looked at anew, and not for ever.
func TestLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var x left
		check := func(when string, list []string, nobody bool) {
			t.Helper()
			if diff := cmp.Diff(list, x.list("w")); diff != "" {
				t.Errorf("%s: %s", when, diff)
			}
			if why, got := x.nobody("w", "s"); got != nobody || why != "" {
				t.Errorf("%s: nobody else can: %v", when, got)
			}
		}
		check("at first", nil, false)
		x.note("w", "s", found{})
		check("when another can", []string{"s"}, false)
		if got := x.list("v"); got != nil {
			t.Errorf("another worker leaves %v", got)
		}
		time.Sleep(leaveFor + time.Second)
		check("some time later", nil, false)
		x.note("w", "s", found{nobody: true})
		check("when nobody can", nil, true)
		time.Sleep(leaveFor + time.Second)
		check("that is not for ever", nil, false)
		for begun := time.Now(); time.Since(begun) < leaveMost; time.Sleep(leaveFor) {
			x.note("w", "s", found{})
		}
		x.note("w", "s", found{})
		check("when nobody takes it", nil, true)
		for begun := time.Now(); time.Since(begun) < 2*leaveMost; time.Sleep(leaveFor) {
			x.note("w", "bound", found{bound: true})
		}
		if _, nobody := x.nobody("w", "bound"); nobody {
			t.Error("a step that was not left to anybody yet counts as left for long")
		}
		x.note("w", "bound", found{nobody: true, why: "; so"})
		if why, nobody := x.nobody("w", "bound"); !nobody || why != "; so" {
			t.Errorf("nobody may: %q, %v", why, nobody)
		}
		time.Sleep(3 * leaveMost)
		x.note("v", "s", found{})
		if _, there := x.workers["w"]; there {
			t.Error("it is remembered for ever")
		}
		for i := range mostLeft + 10 {
			x.note("v", fmt.Sprint(i), found{})
		}
		if n := len(x.list("v")); n != mostLeft {
			t.Errorf("%d are left, want %d at most", n, mostLeft)
		}
	})
}
