package queue

import (
	"fmt"
	"slices"
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
		x.note("w", "acme", "s", found{})
		check("when another can", []string{"s"}, false)
		if got := x.list("v"); got != nil {
			t.Errorf("another worker leaves %v", got)
		}
		time.Sleep(leaveFor + time.Second)
		check("some time later", nil, false)
		x.note("w", "acme", "s", found{nobody: true})
		check("when nobody can", nil, true)
		time.Sleep(leaveFor + time.Second)
		check("that is not for ever", nil, false)
		for begun := time.Now(); time.Since(begun) < 2*keepLeft; time.Sleep(leaveFor) {
			x.note("w", "acme", "s", found{})
		}
		x.note("w", "acme", "s", found{})
		check("when those who can have much to do", []string{"s"}, false)
		x.note("w", "acme", "bound", found{nobody: true, why: "; so"})
		if why, nobody := x.nobody("w", "bound"); !nobody || why != "; so" {
			t.Errorf("nobody may: %q, %v", why, nobody)
		}
		told, stopped := make(chan struct{}, 1), 0
		vacated := func() *vacancy { return &vacancy{told, func() { stopped++ }} }
		x.note("w", "acme", "soon", found{bound: true, vacated: vacated()})
		if got := x.list("w"); !slices.Contains(got, "soon") {
			t.Errorf("what is bound is not left: %v", got)
		}
		told <- struct{}{}
		if got := x.list("w"); slices.Contains(got, "soon") || stopped != 1 {
			t.Errorf("once the workspace is free: %v, %d stopped", got, stopped)
		}
		x.note("w", "acme", "soon", found{bound: true, vacated: vacated()})
		x.note("w", "acme", "soon", found{})
		if stopped != 2 {
			t.Errorf("%d stopped", stopped)
		}
		x.note("w", "acme", "late", found{bound: true, vacated: vacated()})
		time.Sleep(3 * keepLeft)
		x.note("v", "acme", "s", found{})
		if stopped != 3 {
			t.Errorf("%d stopped", stopped)
		}
		if _, there := x.workers["w"]; there {
			t.Error("it is remembered for ever")
		}
		x.note("w", "acme", "far", found{moves: true})
		if !x.moved("w", "far") || x.moved("w", "near") {
			t.Error("who was sent to another region is not known")
		}
		time.Sleep(leaveFor)
		if x.note("w", "acme", "far", found{}); !x.moved("w", "far") {
			t.Error("it goes to and fro")
		}
		if time.Sleep(moveWait); x.moved("w", "far") {
			t.Error("it is kept where it is for ever")
		}
		for i := range mostLeft + 10 {
			x.note("v", "acme", fmt.Sprint(i), found{})
			if _, nobody := x.nobody("v", fmt.Sprint(i)); nobody {
				t.Fatalf("others can do step %d, and it is to be ended", i)
			}
			if barred := len(x.barred("v")) > 0; barred != (i >= mostLeft) {
				t.Fatalf("after step %d its tenant is barred: %v", i, barred)
			}
		}
		if n := len(x.list("v")); n != mostLeft {
			t.Errorf("%d are left, want %d at most", n, mostLeft)
		}
		x.note("v", "rival", "other's", found{})
		if list := x.list("v"); len(list) != mostLeft || !slices.Contains(list, "other's") || !slices.Equal(x.barred("v"), []string{"acme"}) || x.barred("w") != nil {
			t.Errorf("%d are left, and %v barred, when another tenant comes", len(list), x.barred("v"))
		}
		if x.note("v", "acme", "nobody's", found{nobody: true}); len(x.list("v")) != mostLeft {
			t.Error("what nobody can do is left")
		} else if _, nobody := x.nobody("v", "nobody's"); !nobody {
			t.Error("what nobody can do is not ended")
		}
		time.Sleep(leaveFor + time.Second)
		if x.note("v", "acme", "later", found{}); !slices.Equal(x.list("v"), []string{"later"}) || len(x.barred("v")) != 0 {
			t.Errorf("%d are left, though their time is over", len(x.workers["v"]))
		}
	})
}
