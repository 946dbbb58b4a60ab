package worker

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/daemon/internal/metrics"
	"github.com/nofx-run/nofx/daemon/internal/uids"
	"github.com/nofx-run/nofx/daemon/internal/workspace"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plugins is a plugin host whose one plugin can be away.
type plugins struct {
	driver.Driver
	world *memdriver.World

	copyOut func(io.Writer) error // instead of the driver's own

	mu   sync.Mutex
	away bool
	cut  context.CancelFunc // ends the streams of the process that runs now
	live context.Context
}

func newPlugins(t *testing.T) *plugins {
	p := &plugins{world: memdriver.NewWorld()}
	p.Driver = memdriver.New(p.world, memdriver.Options{})
	t.Cleanup(p.world.Close)
	p.restart()
	return p
}

// restart is a new process over the same sandboxes.
func (p *plugins) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut != nil {
		p.cut()
	}
	p.live, p.cut = context.WithCancel(context.Background())
	p.away = false
}

// kill ends the process: streams break, and calls fail until restart.
func (p *plugins) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = true
	p.cut()
}

func (p *plugins) process() (driver.Driver, context.Context, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return nil, nil, step.Errorf(step.KindUnavailable, "the plugin is away")
	}
	return p.Driver, p.live, nil
}

func (p *plugins) stream(ctx context.Context, do func(context.Context, driver.Driver) error) error {
	d, live, err := p.process()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(live, cancel)()
	if err := do(ctx, d); err != nil && live.Err() != nil {
		return step.Errorf(step.KindUnavailable, "the plugin died")
	} else {
		return err
	}
}

func (p *plugins) Exec(ctx context.Context, h driver.Handle, spec driver.ExecSpec, sink driver.Sink) error {
	return p.stream(ctx, func(ctx context.Context, d driver.Driver) error { return d.Exec(ctx, h, spec, sink) })
}

func (p *plugins) Attach(ctx context.Context, h driver.Handle, exec string, offset int64, sink driver.Sink) error {
	return p.stream(ctx, func(ctx context.Context, d driver.Driver) error { return d.Attach(ctx, h, exec, offset, sink) })
}

func (p *plugins) Recover(ctx context.Context, h driver.Handle) (driver.State, error) {
	d, _, err := p.process()
	if err != nil {
		return driver.State{}, err
	}
	return d.Recover(ctx, h)
}

func (p *plugins) CopyOut(ctx context.Context, h driver.Handle, path string, limit int64, to io.Writer) error {
	if p.copyOut != nil {
		return p.copyOut(to)
	}
	return p.Driver.CopyOut(ctx, h, path, limit, to)
}

func (p *plugins) driverInfo() wire.DriverInfo {
	return wire.DriverInfo{Name: "memory", Version: "1", Healthy: true}
}

func (p *plugins) Infos() []wire.DriverInfo { return []wire.DriverInfo{p.driverInfo()} }

type host struct{ *plugins }

func (h host) Driver(name string) (driver.Driver, error) {
	if name != "memory" {
		return nil, step.Errorf(step.KindNotFound, "no driver %s", name)
	}
	return h.plugins, nil
}

// rig is a worker over a fake API and an in-memory driver, and the parts that
// outlive the worker's process.
type rig struct {
	t       *testing.T
	api     *fakeAPI
	plugins *plugins
	dir     string
	tree    *cgroup.Tree

	w      *Worker
	ledger *ledger.Ledger
	stop   context.CancelFunc
	ended  chan error
}

func newRig(t *testing.T) *rig {
	t.Helper()
	tree, err := cgroup.Open(fmt.Sprintf("nofxtest_%08x.slice", rand.Uint32()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.RemoveAll(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, api: newFakeAPI(t), plugins: newPlugins(t), dir: t.TempDir(), tree: tree}
	if err := os.Mkdir(filepath.Join(r.dir, "journal"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.start(4)
	t.Cleanup(r.kill)
	return r
}

func (r *rig) start(slots int) {
	r.t.Helper()
	l, err := ledger.Open(filepath.Join(r.dir, "ledger.db"))
	if err != nil {
		r.t.Fatal(err)
	}
	ids, err := uids.New(1_880_000_000, 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	work, err := workspace.Open(filepath.Join(r.dir, "work"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.ledger = l
	r.w = New(Config{
		API: r.api.client(), Ledger: l, Cgroups: r.tree, UIDs: ids, Workspaces: work,
		JournalDir: filepath.Join(r.dir, "journal"), Drivers: host{r.plugins}, Observer: metrics.New(),
		Log: slog.New(slog.NewTextHandler(r.t.Output(), nil)), Name: "host-1", Version: "test", Slots: slots,
	})
	ctx, stop := context.WithCancel(context.Background())
	r.stop, r.ended = stop, make(chan error, 1)
	w, ended := r.w, r.ended
	go func() { ended <- w.Run(ctx) }()
}

// kill ends the worker where it stands, as the death of its process would.
func (r *rig) kill() {
	r.t.Helper()
	if r.stop == nil {
		return
	}
	r.stop()
	if err := <-r.ended; err != nil {
		r.t.Error(err)
	}
	if err := r.ledger.Close(); err != nil {
		r.t.Error(err)
	}
	r.stop = nil
}

// left waits until nothing is left of any attempt and fails if it does not
// come to that.
func (r *rig) left() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.w.idle.wait(ctx); err != nil {
		r.t.Fatal(err)
	}
	if entries, err := r.ledger.Entries(); err != nil || len(entries) > 0 {
		r.t.Errorf("ledger: %v, %v", entries, err)
	}
	if files, err := os.ReadDir(filepath.Join(r.dir, "journal")); err != nil || len(files) > 0 {
		r.t.Errorf("journals: %v, %v", files, err)
	}
	if n := r.plugins.world.Len(); n > 0 {
		r.t.Errorf("%d sandboxes", n)
	}
}

func types(a *fakeAttempt) []wire.RecordType {
	var out []wire.RecordType
	for _, r := range a.records {
		if n := len(out); n == 0 || out[n-1] != r.Type {
			out = append(out, r.Type)
		}
	}
	return out
}

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
	if v := r.api.verdict("a").verdict.Verdict; v.Cause != step.CauseLost {
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
