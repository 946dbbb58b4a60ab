package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// works has the commands of a rig do this, by attempt; others do nothing.
func works(do map[string]func(dir string) error) func(*rig) {
	return func(r *rig) {
		r.plugins.works = func(id, dir string) error {
			if f := do[id]; f != nil {
				return f(dir)
			}
			return nil
		}
	}
}

func write(name, content string) func(string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644) }
}

// sees fails a command that does not find these files, and no other.
func sees(want map[string]string) func(string) error {
	return func(dir string) error {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, ok := want[e.Name()]; !ok {
				return fmt.Errorf("%s is there", e.Name())
			}
		}
		for name, content := range want {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != content {
				return fmt.Errorf("%s: %q, %w", name, got, err)
			}
		}
		return nil
	}
}

// sharing is a lease of a step that shares its run's workspace, which was saved
// in these layers.
func sharing(id string, no int, layers ...wire.Layer) wire.Lease {
	l := lease(id, "true")
	l.Workspace, l.WorkspaceNo, l.Snapshot, l.Layers = step.WorkspaceRun, no, true, layers
	if n := len(layers); n > 0 {
		l.LastLayer = layers[n-1].Seq
	}
	return l
}

// succeed is a rig with the API of another one, which has ended.
func succeed(t *testing.T, one *rig, before ...func(*rig)) *rig {
	t.Helper()
	two := newRig(t, append(before, func(r *rig) { r.api = one.api })...)
	two.here()
	return two
}

// here waits until the API knows the rig's worker.
func (r *rig) here() {
	r.t.Helper()
	r.api.until("it is registered", func() bool { return r.api.incarnation == r.w.incarnation })
}

// saved waits for an attempt's success and gives the layer that it named.
func (r *rig) saved(l wire.Lease) wire.Layer {
	r.t.Helper()
	r.api.submit(l)
	v := r.api.verdict(l.AttemptID).verdict
	if !v.Verdict.Success() || v.Layer == nil {
		r.t.Fatalf("%s: %s %s, layer %+v", l.AttemptID, v.Verdict, v.Verdict.Message, v.Layer)
	}
	return *v.Layer
}

func (r *rig) event(id, name string) map[string]any {
	r.t.Helper()
	a := r.api.verdict(id)
	for _, rec := range a.records {
		if rec.Event != nil && rec.Event.Name == name {
			return rec.Event.Payload
		}
	}
	return nil
}

// What steps leave is saved after each, as far as it has changed, and another
// host goes on from there; and so does the first one, when the run comes back to
// it.
func TestWorkspaceGoesElsewhere(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 10_000)
	all := map[string]string{"big": big, "one": "1", "two": "2"}
	one := newRig(t, works(map[string]func(string) error{
		"a": func(dir string) error { return errors.Join(write("big", big)(dir), write("one", "1")(dir)) },
		"b": write("two", "2"),
		"z": sees(all),
	}))
	first := one.saved(sharing("a", 1))
	if first.Seq != 1 || !first.Full {
		t.Errorf("%+v", first)
	}
	second := one.saved(sharing("b", 1, first))
	if second.Seq != 2 || second.Full || second.Bytes > 100 {
		t.Errorf("%+v", second)
	}
	if same := one.saved(sharing("c", 1, first, second)); same != (wire.Layer{Seq: 2}) {
		t.Errorf("%+v", same)
	}
	one.left()
	one.kill()

	two := succeed(t, one, works(map[string]func(string) error{"d": sees(all), "e": write("three", "3")}))
	if same := two.saved(sharing("d", 2, first, second)); same != (wire.Layer{Seq: 2}) {
		t.Errorf("%+v", same)
	}
	if got := two.event("d", restored); got["layer"] != float64(2) {
		t.Errorf("told: %v", got)
	}
	info, err := os.Stat(filepath.Join(two.dir, "work", "run-1", "big"))
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
	if third := two.saved(sharing("e", 2, first, second)); third.Seq != 3 || third.Full {
		t.Errorf("%+v", third)
	}
	if two.event("e", restored) != nil {
		t.Error("a workspace that was there was put together again")
	}
	two.left()
	two.kill()

	// What the first one has by now is old; here, also what nobody has saved.
	if err := write("junk", "of a step that was lost")(filepath.Join(one.dir, "work", "run-1")); err != nil {
		t.Fatal(err)
	}
	one.start(4)
	one.here()
	one.saved(sharing("z", 3, first, second))
	one.left()
}

// A step that infrastructure ended begins where the others had left off, but not
// under a step that is at work there.
func TestWorkspaceIsPutBack(t *testing.T) {
	t.Parallel()
	running, goOn := make(chan struct{}), make(chan struct{})
	r := newRig(t, works(map[string]func(string) error{
		"a": write("one", "1"),
		"b": write("junk", "half"),
		"c": sees(map[string]string{"one": "1"}),
		"d": func(dir string) error { close(running); <-goOn; return write("two", "2")(dir) },
		"e": sees(map[string]string{"one": "1", "more": "junk"}),
		"f": sees(map[string]string{"one": "1", "more": "junk", "two": "2"}),
	}))
	first := r.saved(sharing("a", 1))
	r.left()
	b := sharing("b", 1, first)
	b.Snapshot = false
	r.api.submit(b)
	r.api.verdict("b")
	r.left()
	again := func(id, of string) wire.Lease {
		l := sharing(id, 1, first)
		l.StepID, l.Attempt, l.Restore = "s-"+of, 2, true
		return l
	}
	r.saved(again("c", "b"))
	r.left()
	r.api.submit(sharing("d", 1, first))
	<-running
	if err := write("more", "junk")(filepath.Join(r.dir, "work", "run-1")); err != nil {
		t.Fatal(err)
	}
	r.saved(again("e", "b"))
	close(goOn)
	r.api.verdict("d")
	r.left()
	// Nor when another step was at work after the lease was made.
	r.saved(again("f", "b"))
	r.left()
}

// What a host has of a workspace after it came up anew may be half written: what
// was saved is put back. What nobody has saved is used, and the timeline tells.
func TestWorkspaceAfterTheHostStarts(t *testing.T) {
	t.Parallel()
	one := map[string]string{"one": "1"}
	r := newRig(t, works(map[string]func(string) error{
		"a": write("one", "1"), "b": sees(one), "c": sees(one), "d": sees(map[string]string{"one": ""}), "e": sees(map[string]string{"one": "", "two": "2"}),
	}))
	torn := func() {
		t.Helper()
		r.left()
		if err := os.Truncate(filepath.Join(r.dir, "work", "run-1", "one"), 0); err != nil {
			t.Fatal(err)
		}
	}
	first := r.saved(sharing("a", 1))
	r.left()
	r.kill()
	r.start(4)
	r.here()
	r.saved(sharing("b", 1, first)) // the daemon alone was started anew
	if r.event("b", restored) != nil {
		t.Error("a workspace was put together anew after the daemon's start")
	}
	torn()
	r.kill()
	r.boot = "boot-2"
	r.start(4)
	r.here()
	r.saved(sharing("c", 1, first))
	if got := r.event("c", restored); got["layer"] != float64(1) {
		t.Errorf("told: %v", got)
	}
	torn()
	r.kill()
	r.boot = "boot-3"
	r.start(4)
	r.here()
	r.saved(sharing("d", 1))
	if r.event("d", unsure) == nil {
		t.Error("nothing tells of a workspace that may be torn")
	}
	if err := write("two", "2")(filepath.Join(r.dir, "work", "run-1")); err != nil {
		t.Fatal(err)
	}
	r.saved(sharing("e", 1))
	if r.event("e", unsure) != nil {
		t.Error("it is told twice")
	}
	r.left()
}

// Steps that come at the same time after the host came up anew do not keep each
// other from what was saved: none of them has been in the workspace yet.
func TestWorkspaceAfterTheHostStartsForSeveral(t *testing.T) {
	t.Parallel()
	one := map[string]string{"one": "1"}
	r := newRig(t, works(map[string]func(string) error{"a": write("one", "1"), "b": sees(one), "c": sees(one), "d": sees(one)}))
	first := r.saved(sharing("a", 1))
	r.left()
	if err := os.Truncate(filepath.Join(r.dir, "work", "run-1", "one"), 0); err != nil {
		t.Fatal(err)
	}
	r.kill()
	r.boot = "boot-2"
	r.start(4)
	r.here()
	r.api.mu.Lock() // so that one claim gets all
	for _, id := range []string{"b", "c", "d"} {
		l := sharing(id, 1, first)
		l.LeaseMS, l.StepID = r.api.leaseMS, "s-"+id
		r.api.queue, r.api.attempts[id] = append(r.api.queue, l), &fakeAttempt{lease: l}
	}
	r.api.mu.Unlock()
	r.api.change(func() {})
	for _, id := range []string{"b", "c", "d"} {
		if v := r.api.verdict(id).verdict.Verdict; !v.Success() || r.event(id, unsure) != nil {
			t.Errorf("%s: %s, unsure: %v", id, v, r.event(id, unsure))
		}
	}
	r.left()
}

// What a step left that ended before the host came up anew, and is saved after, may
// be torn: nobody can put it together anew, and the timeline tells.
func TestTornWorkspaceIsSaved(t *testing.T) {
	t.Parallel()
	r := newRig(t, works(map[string]func(string) error{"a": write("one", "1"), "b": write("two", "2")}))
	first := r.saved(sharing("a", 1))
	r.left()
	r.api.change(func() { r.api.noUploads, r.api.uploads = true, 0 })
	r.api.submit(sharing("b", 1, first))
	r.api.until("a layer is uploaded", func() bool { return r.api.uploads > 0 })
	r.kill()
	r.api.change(func() { r.api.noUploads = false })
	r.boot = "boot-2"
	r.start(4)
	if v := r.api.verdict("b").verdict; !v.Verdict.Success() || v.Layer == nil {
		t.Errorf("%s, %+v", v.Verdict, v.Layer)
	}
	if r.event("b", unsure) == nil {
		t.Error("nothing tells of a layer that may be torn")
	}
	r.left()
}

// A layer that is not the one that was saved makes no workspace, and the next
// attempt finds nothing of it.
func TestBrokenLayer(t *testing.T) {
	t.Parallel()
	r := newRig(t, works(map[string]func(string) error{"a": write("one", "1"), "b": sees(nil), "c": sees(map[string]string{"one": "1"})}))
	first := r.saved(sharing("a", 1))
	r.left()
	good := r.api.artifacts[first.SHA256]
	for i, bad := range []string{"", good[:len(good)-1], good + "x", "x" + good[1:]} {
		r.api.change(func() { r.api.artifacts[first.SHA256] = bad })
		id := fmt.Sprint("b", i)
		r.api.submit(sharing(id, 2+i, first))
		v := r.api.verdict(id).verdict.Verdict
		if v.Cause != step.CauseDriverError || v.ErrorKind != step.KindUnavailable || !strings.Contains(v.Message, "layer 1") {
			t.Errorf("%d: %+v", i, v)
		}
		if _, err := os.Lstat(filepath.Join(r.dir, "work", "run-1")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d: half a workspace stays: %v", i, err)
		}
	}
	r.api.change(func() { r.api.artifacts[first.SHA256] = good })
	r.saved(sharing("c", 9, first))
	r.left()
}

// A daemon that dies while it puts a workspace together does it again.
func TestRestoreOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 10_000)
	r := newRig(t, works(map[string]func(string) error{
		"a": write("big", big), "b": write("two", "2"), "c": sees(map[string]string{"big": big, "two": "2"}),
	}))
	first := r.saved(sharing("a", 1))
	second := r.saved(sharing("b", 1, first))
	r.left()
	r.api.change(func() { r.api.noLayers = true })
	r.api.submit(sharing("c", 2, first, second))
	r.api.until("a layer is asked for", func() bool { return r.api.fetches > 0 })
	r.kill()
	half := filepath.Join(r.dir, "work", "run-1")
	if err := errors.Join(os.MkdirAll(half, 0o700), write("half", "of it")(half)); err != nil {
		t.Fatal(err)
	}
	r.api.change(func() { r.api.noLayers = false })
	r.start(4)
	if v := r.api.verdict("c").verdict; !v.Verdict.Success() {
		t.Errorf("%s: %s", v.Verdict, v.Verdict.Message)
	}
	r.left()
}

// What is too large is not saved, which the run's timeline tells, and the step
// succeeds all the same.
func TestNotSaved(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.most = 1000 }, works(map[string]func(string) error{
		"a": write("big", strings.Repeat("x", 2000)),
		"b": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "big")), write("small", "x")(dir))
		},
	}))
	r.api.submit(sharing("a", 1))
	if v := r.api.verdict("a").verdict; !v.Verdict.Success() || v.Layer != nil {
		t.Errorf("%+v", v)
	}
	if got := r.event("a", wire.NoteNotSaved); got["reason"] != "too_large" || got["limit"] != float64(1000) || got["bytes"] != float64(2003+1) {
		t.Errorf("%v", got)
	}
	if l := r.saved(sharing("b", 1)); l.Seq != 1 {
		t.Errorf("%+v", l)
	}
	r.left()
}

// Steps at the same time are saved one after the other, each on what the one
// before had saved.
func TestSavedInTurn(t *testing.T) {
	t.Parallel()
	do := map[string]func(string) error{}
	for i := range 4 {
		do[fmt.Sprint("p", i)] = write(fmt.Sprint("f", i), strings.Repeat("x", 100*i))
	}
	r := newRig(t, works(do))
	for id := range do {
		r.api.submit(sharing(id, 1))
	}
	seen := map[int]bool{}
	for id := range do {
		v := r.api.verdict(id).verdict
		if v.Layer == nil || seen[v.Layer.Seq] && v.Layer.SHA256 != "" {
			t.Errorf("%s: %+v", id, v.Layer)
			continue
		}
		seen[v.Layer.Seq] = seen[v.Layer.Seq] || v.Layer.SHA256 != ""
	}
	r.left()
}

// When it is not known whether a layer counts, the next one is full, under a
// number that nobody can have.
func TestLayerInDoubt(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 10_000)
	r := newRig(t, works(map[string]func(string) error{"a": write("big", big), "b": write("two", "2"), "c": write("three", "3"), "d": write("four", "4")}))
	first := r.saved(sharing("a", 1))
	second := r.saved(sharing("b", 1, first))
	r.left()
	index := filepath.Join(r.dir, "work", ".index-run-1")
	if err := os.Rename(index, index+".next"); err != nil { // as if it had died before it was told
		t.Fatal(err)
	}
	third := r.saved(sharing("c", 1, first))
	if third.Seq != second.Seq+1 || !third.Full {
		t.Errorf("%+v", third)
	}
	r.left()
	// A lease tells that it counts.
	if err := os.Rename(index, index+".next"); err != nil {
		t.Fatal(err)
	}
	if fourth := r.saved(sharing("d", 1, third)); fourth.Seq != third.Seq+1 || fourth.Full {
		t.Errorf("%+v", fourth)
	}
	r.left()
}

// A host that does not save says nothing of layers, and restores all the same.
func TestSnapshotsOff(t *testing.T) {
	t.Parallel()
	one := newRig(t, works(map[string]func(string) error{"a": write("one", "1")}))
	first := one.saved(sharing("a", 1))
	one.left()
	one.kill()
	two := succeed(t, one, func(r *rig) { r.most = 0 }, works(map[string]func(string) error{"b": sees(map[string]string{"one": "1"})}))
	two.api.submit(sharing("b", 2, first))
	if v := two.api.verdict("b").verdict; !v.Verdict.Success() || v.Layer != nil {
		t.Errorf("%+v", v)
	}
	two.left()
}

// What a run has put into its own layers opens no breaker for others.
func TestFaultOfAWorkspace(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		want step.Kind
	}{
		"it does not fit":      {fmt.Errorf("layer 1: %w", &os.PathError{Op: "write", Path: "a", Err: unix.ENOSPC}), step.KindTooLarge},
		"a quota":              {fmt.Errorf("layer 1: %w", unix.EDQUOT), step.KindTooLarge},
		"no layer":             {step.Errorf(step.KindInvalid, "a layer cannot be read"), step.KindInvalid},
		"the API is away":      {step.Errorf(step.KindUnavailable, "away"), step.KindUnavailable},
		"something else fails": {unix.EIO, step.KindUnavailable},
	} {
		if got := fault(tc.err); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// Of large layers only so many lie on the disk at a time; small ones wait for
// nobody.
func TestRoomForLayers(t *testing.T) {
	t.Parallel()
	w := &Worker{large: make(chan struct{}, mostLarge)}
	var releases []func()
	for range mostLarge {
		release, err := w.room(t.Context(), largeLayer+1)
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, release)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.room(gone, largeLayer+1); err == nil {
		t.Error("one more has room")
	}
	if release, err := w.room(gone, largeLayer); err != nil {
		t.Errorf("a small one: %v", err)
	} else {
		release()
	}
	releases[0]()
	release, err := w.room(t.Context(), largeLayer+1)
	if err != nil {
		t.Fatal(err)
	}
	release()
}
