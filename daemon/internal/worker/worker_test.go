package worker

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func TestSteps(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.submit(lease("ok", "sh", "-c", "echo hello; echo oops >&2"))
	r.api.submit(lease("red", "mem", "exit", "7"))
	r.api.submit(lease("none", "no-such-program"))
	bad := lease("bad", "true")
	bad.Driver = "modal"
	r.api.submit(bad)

	ok := r.api.verdict("ok")
	if !ok.verdict.Verdict.Success() || string(ok.verdict.Stdout) != "hello\n" || string(ok.verdict.Stderr) != "oops\n" {
		t.Errorf("%+v, stdout %q, stderr %q", ok.verdict.Verdict, ok.verdict.Stdout, ok.verdict.Stderr)
	}
	if diff := cmp.Diff([]wire.RecordType{wire.RecordStarted, wire.RecordOutput, wire.RecordVerdict}, types(ok)); diff != "" {
		t.Error(diff)
	}
	if v := r.api.verdict("red").verdict.Verdict; v.String() != "exit 7" {
		t.Errorf("red: %s", v)
	}
	if v := r.api.verdict("none").verdict.Verdict; v.Cause != step.CauseExit || *v.ExitCode != 127 {
		t.Errorf("none: %+v", v)
	}
	if v := r.api.verdict("bad").verdict.Verdict; v.Cause != step.CauseDriverError || !strings.Contains(v.Message, "modal") {
		t.Errorf("bad: %+v", v)
	}
	r.left()
}

func TestFilesAndArtifacts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := lease("a", "sh", "-c", "cat sub/in.txt")
	l.Command.Files = []wire.CommandFile{{Path: "sub/in.txt", Data: []byte("content")}}
	l.Artifacts = []string{"sub", "missing.txt"}
	r.api.submit(l)
	a := r.api.verdict("a")
	if text(a) != "content" || len(a.verdict.Artifacts) != 1 || a.verdict.Artifacts[0].Name != "sub/in.txt" || a.verdict.Artifacts[0].Size != 7 {
		t.Errorf("output %q, artifacts %+v, verdict %s", text(a), a.verdict.Artifacts, a.verdict.Verdict.Message)
	}
	if got := r.api.artifacts[a.verdict.Artifacts[0].SHA256]; got != "content" {
		t.Errorf("uploaded %q", got)
	}
	var missing bool
	for _, rec := range a.records {
		missing = missing || rec.Event != nil && rec.Event.Name == artifactMissing
	}
	if !missing {
		t.Error("nobody was told that missing.txt was not there")
	}
	r.left()
}

// What a step leaves under the name of an artifact is its own affair: it
// neither fails the step, nor keeps the verdict from the API.
func TestHostileArtifacts(t *testing.T) {
	t.Parallel()
	events := func(a *fakeAttempt) (names []string) {
		for _, rec := range a.records {
			if rec.Event != nil {
				names = append(names, rec.Event.Name)
			}
		}
		return names
	}
	for name, c := range map[string]struct {
		copyOut func(io.Writer) error
		names   []string
		events  []string
	}{
		"not readable": {
			copyOut: func(io.Writer) error { return step.Errorf(step.KindForbidden, "permission denied") },
			events:  []string{artifactMissing},
		},
		"names": {
			copyOut: func(to io.Writer) error {
				w := tar.NewWriter(to)
				for _, n := range []string{"good", "a\nb", "\xff\xfe", "\xff\xfd", "esc\x1b[2J", strings.Repeat("x", maxArtifactName)} {
					if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "d/" + n, Format: tar.FormatPAX}); err != nil {
						return err
					}
				}
				return w.Close()
			},
			names:  []string{"d/good"},
			events: []string{artifactLeftOut},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.plugins.copyOut = c.copyOut
			l := lease("a", "true")
			l.Artifacts = []string{"d"}
			r.api.submit(l)
			a := r.api.verdict("a")
			if !a.verdict.Verdict.Success() {
				t.Errorf("verdict %s: %s", a.verdict.Verdict, a.verdict.Verdict.Message)
			}
			var names []string
			for _, f := range a.verdict.Artifacts {
				names = append(names, f.Name)
			}
			if diff := cmp.Diff(c.names, names); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.events, events(a)); diff != "" {
				t.Error(diff)
			}
			r.left()
		})
	}
}

// What a step used is told also when the driver fails after its end.
func TestUsageOfAFailedCollection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugins.copyOut = func(io.Writer) error { return step.Errorf(step.KindInternal, "the engine broke") }
	l := lease("a", "mem", "count", "20", "0.01")
	l.Artifacts = []string{"d"}
	r.api.submit(l)
	v := r.api.verdict("a").verdict.Verdict
	if v.Cause != step.CauseDriverError || v.ExitCode != nil || v.Usage.WallMS < 100 || v.Usage.OutputBytes == 0 || v.Output.TotalBytes != v.Usage.OutputBytes || v.Output.StoredBytes == 0 {
		t.Errorf("%+v", v)
	}
	r.left()
}

// counted is what mem count writes.
func counted(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d\n", i+1)
	}
	return strings.TrimSpace(b.String())
}

func TestPluginDiesInMidStep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.submit(lease("a", "mem", "count", "100", "0.01"))
	for i := range 3 {
		r.api.until("output", func() bool { return len(r.api.attempts["a"].output) > i*20 })
		r.plugins.kill()
		r.plugins.restart()
	}
	a := r.api.verdict("a")
	if !a.verdict.Verdict.Success() || text(a) != counted(100) || strings.TrimSpace(string(a.verdict.Stdout)) != text(a) {
		t.Errorf("%s: %q", a.verdict.Verdict, text(a))
	}
	r.left()
}

// A driver that is well by its own account and does not end a step, long after
// the step's time, ends it as a driver's error: it must not run for ever.
func TestDriverForgetsTheTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.plugins.deaf, r.overdue = true, 200*time.Millisecond })
	l := lease("a", "mem", "count", "3", "0")
	l.TimeoutMS = 100
	r.api.submit(l)
	v := r.api.verdict("a").verdict.Verdict
	if v.Cause != step.CauseDriverError || !strings.Contains(v.Message, "did not end the step") {
		t.Errorf("%+v", v)
	}
	r.left()
}

// The plugin dies when the step has ended: its sandbox goes as soon as the
// plugin is back, and does not wait for a sweep.
func TestPluginDiesBeforeDestroy(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.plugins.lose = 2 })
	r.api.submit(lease("a", "mem", "count", "3", "0"))
	r.api.verdict("a")
	r.left()
}

func TestDaemonDiesInMidStep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.submit(lease("a", "mem", "count", "150", "0.01"))
	for i := range 3 {
		r.api.until("output", func() bool { return len(r.api.attempts["a"].output) > i*40 })
		r.kill()
		r.start(4)
	}
	a := r.api.verdict("a")
	if !a.verdict.Verdict.Success() || text(a) != counted(150) || strings.TrimSpace(string(a.verdict.Stdout)) != text(a) {
		t.Errorf("%s: %q", a.verdict.Verdict, text(a))
	}
	if diff := cmp.Diff([]wire.RecordType{wire.RecordStarted, wire.RecordOutput, wire.RecordVerdict}, types(a)); diff != "" {
		t.Error(diff)
	}
	r.left()
}

// The daemon dies when the step has ended and its artifacts are not uploaded.
// The next one uploads them once the API knows it, and not before: the API would
// take it for a stranger, and the step's result would be lost.
func TestDaemonDiesBeforeItUploads(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.noUploads = true
	l := lease("a", "sh", "-c", "cat in.txt")
	l.Command.Files = []wire.CommandFile{{Path: "in.txt", Data: []byte("content")}}
	l.Artifacts = []string{"in.txt"}
	r.api.submit(l)
	r.api.until("an upload", func() bool { return r.api.uploads > 0 })
	r.kill()
	r.api.change(func() { r.api.noUploads, r.api.uploads, r.api.slow = false, 0, true })
	r.start(4)
	a := r.api.verdict("a")
	if !a.verdict.Verdict.Success() || len(a.verdict.Artifacts) != 1 {
		t.Errorf("verdict %s %s, artifacts %v", a.verdict.Verdict, a.verdict.Verdict.Message, a.verdict.Artifacts)
	}
	r.left()
}

// A crash of the host can leave less of a journal than the API has, or a
// journal that cannot be read: its attempt is given up, the others go on.
func TestSpoiltJournal(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(dir string) error{
		"shorter than what is acknowledged": func(dir string) error {
			return os.Truncate(filepath.Join(dir, fmt.Sprintf("%020d.journal", 1)), 0)
		},
		"not a segment": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "x.journal"), nil, 0o600)
		},
		"a gap": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, fmt.Sprintf("%020d.journal", 1<<40)), nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.api.submit(lease("a", "mem", "count", "100000", "0.01"))
			r.api.until("output", func() bool { return len(r.api.attempts["a"].output) > 100 })
			r.kill()
			if err := spoil(filepath.Join(r.dir, "journal", "a")); err != nil {
				t.Fatal(err)
			}
			r.start(4)
			r.api.submit(lease("b", "true"))
			if v := r.api.verdict("b").verdict.Verdict; !v.Success() {
				t.Errorf("afterwards: %s", v)
			}
			r.left()
		})
	}
}

func TestAPIIsAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.submit(lease("a", "mem", "count", "60", "0.01"))
	r.api.until("output", func() bool { return len(r.api.attempts["a"].output) > 10 })
	r.api.change(func() { r.api.down = true })
	for r.w.held("a").journal.Position().Verdict == false {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("the step did not end without the API")
		}
	}
	r.api.change(func() { r.api.down = false })
	if a := r.api.verdict("a"); text(a) != counted(60) {
		t.Errorf("%q", text(a))
	}
	r.left()
}

// Leases that expire before the lost answer of their claim is asked for again
// are gone with that claim; what comes later is claimed, by this process and by
// the next.
func TestClaimIsLost(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]bool{"in this process": false, "in the next": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.api.change(func() { r.api.lose = true })
			r.api.submit(lease("gone", "true"))
			r.api.until("the claim is lost", func() bool { return !r.api.lose })
			if restart {
				r.kill()
				r.start(4)
			}
			r.api.submit(lease("a", "true"))
			if v := r.api.verdict("a").verdict.Verdict; !v.Success() {
				t.Errorf("%s", v)
			}
			r.left()
		})
	}
}

// A worker that the API counts as lost registers again, and gets its work.
func TestClaimIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.api.lost = true })
	r.api.submit(lease("a", "true"))
	if a := r.api.verdict("a"); !a.verdict.Verdict.Success() {
		t.Errorf("%s", a.verdict.Verdict)
	}
	r.left()
}

func TestCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.submit(lease("polite", "sleep", "60"))
	r.api.submit(lease("stubborn", "mem", "stubborn"))
	for _, id := range []string{"polite", "stubborn"} {
		r.api.until("start", func() bool { return len(r.api.attempts[id].records) > 0 })
		r.api.change(func() { r.api.attempts[id].cancel = true })
		if v := r.api.verdict(id).verdict.Verdict; v.Cause != step.CauseCancelled {
			t.Errorf("%s: %+v", id, v)
		}
	}
	r.left()
}

func TestClosedByTheAPI(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.submit(lease("a", "mem", "count", "100000", "0.005"))
	r.api.until("start", func() bool { return len(r.api.attempts["a"].records) > 2 })
	var before int
	r.api.change(func() { r.api.attempts["a"].closed = true; before = len(r.api.attempts["a"].records) })
	r.left()
	if n := len(r.api.attempts["a"].records); n != before {
		t.Errorf("%d records came after the end", n-before)
	}
}

func TestSandboxIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.submit(lease("a", "mem", "count", "100000", "0.005"))
	r.api.until("start", func() bool { return len(r.api.attempts["a"].records) > 2 })
	r.kill()
	r.plugins.world.Close() // the host was restarted
	r.start(4)
	if v := r.api.verdict("a").verdict.Verdict; v.Cause != step.CauseLost || v.ErrorKind != "" {
		t.Errorf("%+v", v)
	}
	r.left()
}

func TestDrain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.submit(lease("a", "mem", "count", "30", "0.01"))
	r.api.until("start", func() bool { return len(r.api.attempts["a"].records) > 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.w.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if a := r.api.attempts["a"]; a.verdict == nil || text(a) != counted(30) {
		t.Errorf("after the drain: %+v", a)
	}
	r.api.submit(lease("late", "true"))
	r.kill()
	if a := r.api.attempts["late"]; len(a.records) > 0 {
		t.Error("a lease was taken after the drain")
	}
}

// A host that goes away ends what outlasts its drain and tells of it, so that
// nobody waits for the lease's end.
func TestLeave(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.submit(lease("long", "sh", "-c", "echo out; sleep 3600"))
	r.api.until("output", func() bool { a := r.api.attempts["long"]; return a != nil && len(a.output) > 0 })
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.w.Drain(over); err == nil {
		t.Fatal("the drain ended, and the step did not")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.w.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	r.left()
	a := r.api.verdict("long")
	if v := a.verdict.Verdict; v.Cause != step.CauseLost || v.Message != errLeft.Error() || text(a) != "out" {
		t.Errorf("%+v, output %q", v, text(a))
	}
}

// A lease whose breaker has opened since goes back unbegun. The breaker's own
// probe, and what another breaker stands before, go on.
func TestBarred(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var heard int
	r.api.change(func() {
		r.api.barriers = []wire.Barrier{{Lane: "exec", Driver: "memory", Generation: 4}}
		heard = r.api.beats + 3 // of which the second is answered with them, and its answer was read before the third
	})
	r.api.until("heartbeats", func() bool { return r.api.beats >= heard })
	for id, generation := range map[string]int64{"late": 3, "probe": 4} {
		l := lease(id, "true")
		l.Lane, l.BreakerGeneration = "exec", generation
		r.api.submit(l)
	}
	other := lease("other", "true")
	other.Lane = "bash"
	r.api.submit(other)
	r.api.verdict("probe")
	r.api.verdict("other")
	r.api.until("the late one goes back", func() bool { return len(r.api.released) > 0 })
	r.left()
	if a := r.api.attempts["late"]; len(a.records) > 0 || len(r.api.released) != 1 || r.api.released[0] != "late" {
		t.Errorf("released %v, and %+v", r.api.released, a)
	}
}

// Whatever dies whenever: each of many steps ends once, with its output whole.
func TestEverythingDies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const n = 40
	for i := range n {
		r.api.submit(lease(fmt.Sprint("a", i), "mem", "count", "20", "0.003"))
	}
	ended := func() int {
		c := 0
		for _, a := range r.api.attempts {
			if a.verdict != nil {
				c++
			}
		}
		return c
	}
	for i := 1; i < 8; i++ {
		r.api.until("progress", func() bool { return ended() >= i*4 })
		if i%2 == 0 {
			r.plugins.kill()
			r.plugins.restart()
			continue
		}
		r.kill()
		r.start(4)
	}
	for i := range n {
		if a := r.api.verdict(fmt.Sprint("a", i)); !a.verdict.Verdict.Success() || text(a) != counted(20) {
			t.Errorf("a%d: %s %q", i, a.verdict.Verdict, text(a))
		}
	}
	r.left()
}
