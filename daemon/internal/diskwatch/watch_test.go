package diskwatch

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mb = 1 << 20

// fakeDisk is a disk of folders that hold what a test says.
type fakeDisk struct {
	mu     sync.Mutex
	use    Use
	sizes  map[string]Size
	hidden map[string]bool // looks see a part of it only
	looks  map[string]int
	took   time.Duration // by a look
	volume Volume
}

func newFake(size int64) *fakeDisk {
	return &fakeDisk{use: Use{Size: size, Free: size}, sizes: map[string]Size{}, hidden: map[string]bool{}, looks: map[string]int{}}
}

// put has a folder grow, or shrink.
func (d *fakeDisk) put(dir string, bytes, files int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sizes[dir]
	d.sizes[dir] = Size{Bytes: s.Bytes + bytes, Files: s.Files + files}
	d.use.Used, d.use.Free, d.use.Files = d.use.Used+bytes, d.use.Free-bytes, d.use.Files+files
}

func (d *fakeDisk) looked(dir string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.looks[dir]
}

func (d *fakeDisk) Use() (Use, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.use, nil
}

func (d *fakeDisk) Volume(string) (Volume, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.volume, nil
}

func (d *fakeDisk) Size(ctx context.Context, dir string, mostFiles int64, _ []int) (Size, error) {
	d.mu.Lock()
	s, took := d.sizes[dir], d.took
	d.looks[dir]++
	s.Part = d.hidden[dir]
	d.mu.Unlock()
	if mostFiles == quickLook {
		return s, nil
	}
	select {
	case <-time.After(took):
		return s, nil
	case <-ctx.Done():
		return Size{Part: true}, ctx.Err()
	}
}

// told is what a stay was told.
type told struct {
	mu   sync.Mutex
	over []Over
}

func (o *told) end(v Over) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = append(o.over, v)
}

func (o *told) all() []Over {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.over
}

// bubble runs a watch over a fake disk, with time that stands still while anybody
// is at work.
func bubble(t *testing.T, d *fakeDisk, do func(*testing.T, *Watch)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := New(d, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		do(t, w)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func enter(t *testing.T, w *Watch, dir string, limit int64, o *told) *Stay {
	t.Helper()
	s, over := w.Enter(t.Context(), Visit{Dir: dir, Limit: limit, Shared: true, End: o.end})
	if over != nil {
		t.Errorf("%s is above its bound: %v", dir, over)
	}
	return s
}

func TestOver(t *testing.T) {
	t.Parallel()
	d := newFake(1000 * mb)
	bubble(t, d, func(t *testing.T, w *Watch) {
		var a, b told
		sa, sb := enter(t, w, "a", 64*mb, &a), enter(t, w, "b", 64*mb, &b)
		pass(every)
		d.put("a", 64*mb, 1)
		d.put("b", 10*mb, 1)
		pass(every)
		if len(a.all()) > 0 {
			t.Errorf("at the bound: %v", a.all())
		}
		d.put("a", mb, 1)
		pass(every)
		if got := a.all(); len(got) != 1 || got[0].Bytes != 65*mb || !strings.Contains(got[0].String(), "65.0 MiB, more than the 64.0 MiB") {
			t.Fatalf("above the bound: %v", got)
		}
		pass(time.Minute)
		if len(a.all()) != 1 || len(b.all()) > 0 {
			t.Errorf("told %v, its neighbour %v", a.all(), b.all())
		}
		d.put("a", -60*mb, 0)
		if p := sa.Last(t.Context()); p.Over == nil || p.Bytes != 65*mb {
			t.Errorf("in the end %+v", p)
		}
		if p := sb.Last(t.Context()); p.Over != nil || p.Bytes != 10*mb {
			t.Errorf("its neighbour %+v", p)
		}
		sa.Leave()
		sb.Leave()
	})
}

func TestFiles(t *testing.T) {
	t.Parallel()
	d := newFake(1000 * mb)
	bubble(t, d, func(t *testing.T, w *Watch) {
		var a told
		s := enter(t, w, "a", 16*mb, &a)
		pass(every)
		d.put("a", mb, 1025)
		pass(every)
		if got := a.all(); len(got) != 1 || !strings.Contains(got[0].String(), "1025 files, more than the 1024") {
			t.Errorf("told %v", got)
		}
		s.Leave()
	})
}

// A tree is looked at when it may be above its bound, and else seldom.
func TestSeldom(t *testing.T) {
	t.Parallel()
	d := newFake(1000 * mb)
	bubble(t, d, func(t *testing.T, w *Watch) {
		var a told
		s := enter(t, w, "a", 64*mb, &a)
		pass(every)
		d.put("other", 50*mb, 0)
		pass(backstop / 2)
		if n := d.looked("a"); n != 1 {
			t.Errorf("%d looks, though it cannot be above its bound", n)
		}
		d.put("other", 15*mb, 0)
		pass(every)
		if n := d.looked("a"); n != 2 {
			t.Errorf("%d looks, and it may be", n)
		}
		pass(backstop + every)
		if n := d.looked("a"); n != 3 {
			t.Errorf("%d looks after a while", n)
		}
		s.Leave()
		pass(time.Hour)
		if n := d.looked("a"); n != 3 {
			t.Errorf("%d looks, and nobody is there", n)
		}
	})
}

// What others remove meanwhile hides how much a folder grows: when it is seen to
// go not at all, and when it is not, until the next look.
func TestHidden(t *testing.T) {
	t.Parallel()
	for what, most := range map[string]time.Duration{"seen": 2 * every, "unseen": backstop + every} {
		d := newFake(1000 * mb)
		d.put("other", 200*mb, 0)
		bubble(t, d, func(t *testing.T, w *Watch) {
			var a told
			s := enter(t, w, "a", 64*mb, &a)
			pass(every)
			d.put("other", -100*mb, 0)
			if what == "seen" {
				pass(every)
			}
			d.put("a", 100*mb, 1)
			pass(most)
			if len(a.all()) != 1 {
				t.Errorf("%s: told %v", what, a.all())
			}
			s.Leave()
		})
	}
}

// A tree that takes long to look at takes a quarter of the time at most.
func TestRest(t *testing.T) {
	t.Parallel()
	d := newFake(100000 * mb)
	d.took = time.Second
	bubble(t, d, func(t *testing.T, w *Watch) {
		var a told
		s := enter(t, w, "a", 64*mb, &a)
		for range 800 { // 40 s
			d.put("other", 64*mb, 0)
			pass(every)
		}
		if n := d.looked("a"); n < 8 || n > 11 {
			t.Errorf("%d looks of a second each in 40", n)
		}
		s.Leave()
	})
}

// Everybody in a folder that is above its bound ends, and nobody begins in it.
func TestShared(t *testing.T) {
	t.Parallel()
	d := newFake(1000 * mb)
	bubble(t, d, func(t *testing.T, w *Watch) {
		var a, b told
		sa, sb := enter(t, w, "run", 64*mb, &a), enter(t, w, "run", 64*mb, &b)
		d.put("run", 65*mb, 1)
		pass(every)
		if len(a.all()) != 1 || len(b.all()) != 1 {
			t.Errorf("told %v and %v", a.all(), b.all())
		}
		sa.Leave()
		sb.Leave()
		late, over := w.Enter(t.Context(), Visit{Dir: "run", Limit: 64 * mb, Shared: true, End: func(Over) { t.Error("told twice") }})
		if over == nil || over.Bytes != 65*mb {
			t.Errorf("begun in it: %v", over)
		}
		pass(time.Minute)
		late.Leave()
		d.put("run", -10*mb, 0)
		enter(t, w, "run", 64*mb, &a).Leave()
		w.Forget("run")
	})
}

// What a short step leaves is seen at its end, and its peak before that.
func TestLast(t *testing.T) {
	t.Parallel()
	d := newFake(1000 * mb)
	bubble(t, d, func(t *testing.T, w *Watch) {
		var a told
		s := enter(t, w, "a", 64*mb, &a)
		d.put("a", 5*mb, 1)
		if p := s.Last(t.Context()); p.Bytes != 5*mb || p.Over != nil {
			t.Errorf("never looked at before: %+v", p)
		}
		s.Leave()
		s = enter(t, w, "a", 64*mb, &a)
		d.put("a", mb, 1)
		if p := s.Last(t.Context()); p.Bytes != 6*mb || p.Over != nil {
			t.Errorf("small: %+v", p)
		}
		s.Leave()
		s = enter(t, w, "a", 64*mb, &a)
		d.put("a", 60*mb, 1)
		if p := s.Last(t.Context()); p.Bytes != 66*mb || p.Over == nil {
			t.Errorf("above its bound at the end: %+v", p)
		}
		s.Leave()
		if len(a.all()) > 0 {
			t.Errorf("told after the end: %v", a.all())
		}
	})
}

// A file system of its own that was full for a while was full.
func TestVolume(t *testing.T) {
	t.Parallel()
	d := newFake(1000 * mb)
	bubble(t, d, func(t *testing.T, w *Watch) {
		s, _ := w.Enter(t.Context(), Visit{Dir: "a", Own: true})
		for _, v := range []Volume{{Used: 5}, {Used: 100, Full: true}, {Used: 7}} {
			d.mu.Lock()
			d.volume = v
			d.mu.Unlock()
			pass(every)
		}
		if p := s.Last(t.Context()); p.Bytes != 100 || !p.Full {
			t.Errorf("%+v", p)
		}
		s.Leave()
	})
}

// What cannot be seen whole counts as far as it was seen.
func TestPart(t *testing.T) {
	t.Parallel()
	d := newFake(1000 * mb)
	d.hidden["a"] = true
	bubble(t, d, func(t *testing.T, w *Watch) {
		var a told
		s := enter(t, w, "a", 64*mb, &a)
		d.put("a", 20*mb, 1)
		pass(every)
		if len(a.all()) > 0 {
			t.Errorf("told %v", a.all())
		}
		d.put("a", 50*mb, 1)
		pass(every)
		if len(a.all()) != 1 {
			t.Errorf("told %v", a.all())
		}
		s.Leave()
	})
}
