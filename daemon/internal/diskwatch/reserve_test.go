package diskwatch

import (
	"strings"
	"testing"
	"time"
)

// When the disk runs out, the steps of the largest folder end, and others go on.
func TestReserve(t *testing.T) {
	t.Parallel()
	d := newFake(10000 * mb)
	bubble(t, d, func(t *testing.T, w *Watch) {
		var large, small, none told
		stays := []*Stay{enter(t, w, "large", 0, &large), enter(t, w, "small", 9000*mb, &small), enter(t, w, "none", 9000*mb, &none)}
		d.put("large", 5000*mb, 1)
		d.put("small", 4800*mb, 1)
		pass(every)
		if len(large.all())+len(small.all()) > 0 {
			t.Errorf("with 200 MiB left: %v, %v", large.all(), small.all())
		}
		d.put("none", 100*mb, 1)
		pass(every)
		if got := large.all(); len(got) != 1 || !strings.Contains(got[0].String(), "with 100.0 MiB left") || !strings.Contains(got[0].String(), "5000.0 MiB") || len(small.all()) > 0 {
			t.Fatalf("with 100 MiB left: %v, %v", got, small.all())
		}
		pass(time.Minute)
		if len(small.all()) > 0 {
			t.Errorf("and nothing has come since: %v", small.all())
		}
		d.put("none", 60*mb, 1)
		pass(every)
		if len(small.all()) != 1 {
			t.Errorf("with 40 MiB left: %v", small.all())
		}
		d.put("none", 30*mb, 1)
		pass(every)
		if len(none.all()) != 1 { // by now it is larger than the reserve
			t.Errorf("with 10 MiB left: %v", none.all())
		}
		for _, s := range stays {
			s.Leave()
		}
	})
}

// A disk that others fill, or that had no more all along, is nobody's here.
func TestReserveOfOthers(t *testing.T) {
	t.Parallel()
	d := newFake(10000 * mb)
	d.put("before", 9900*mb, 1)
	d.put("a", 60*mb, 1)
	bubble(t, d, func(t *testing.T, w *Watch) {
		var a told
		s := enter(t, w, "a", 9000*mb, &a)
		pass(time.Minute)
		d.put("other", 35*mb, 1)
		pass(time.Minute)
		if len(a.all()) > 0 {
			t.Errorf("told %v", a.all())
		}
		s.Leave()
	})
}
