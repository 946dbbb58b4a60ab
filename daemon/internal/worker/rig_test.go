package worker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/daemon/internal/diskwatch"
	"github.com/nofx-run/nofx/daemon/internal/journal"
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

	copyOut func(io.Writer) error      // instead of the driver's own
	works   func(id, dir string) error // what commands do in their workspaces; not nil: the sandboxes are on this host
	takes   func(step.Resources) error // refuses sandboxes
	open    bool                       // steps may ask for a network, which is none

	mu      sync.Mutex
	dirs    map[string]string // of workspaces, by sandbox
	away    bool
	lose    int                // calls of Destroy that do not arrive
	deaf    bool               // its execs do not end
	unbound bool               // it lets its execs write as much as they like
	sick    bool               // it says of itself that it is not healthy
	also    []driver.Listed    // it lists, of whoever; not nil: it says that its sandboxes are on this host
	cut     context.CancelFunc // ends the streams of the process that runs now
	live    context.Context
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

func (p *plugins) Describe(ctx context.Context) (driver.Description, error) {
	about, err := p.Driver.Describe(ctx)
	if p.works != nil {
		about.Capabilities = append(about.Capabilities, driver.CapHost)
	}
	if p.open {
		about.Capabilities = append(about.Capabilities, driver.CapNetOpen)
	}
	return about, err
}

func (p *plugins) Create(ctx context.Context, spec driver.Spec) (driver.Handle, error) {
	if p.takes != nil {
		if err := p.takes(spec.Resources); err != nil {
			return driver.Handle{}, err
		}
	}
	if spec.Host != nil {
		p.mu.Lock()
		if p.dirs == nil {
			p.dirs = map[string]string{}
		}
		p.dirs[spec.ID], spec.Host = spec.Host.Workspace, nil
		p.mu.Unlock()
	}
	if p.open {
		spec.Network = step.NetworkNone
	}
	if p.unbound {
		spec.Resources.OutputKB = 0
	}
	return p.Driver.Create(ctx, spec)
}

func (p *plugins) Exec(ctx context.Context, h driver.Handle, spec driver.ExecSpec, sink driver.Sink) error {
	if p.deaf {
		<-ctx.Done()
		return &step.Error{Kind: step.KindUnavailable, Message: "the call was given up", Err: ctx.Err()}
	}
	if p.unbound {
		spec.OutputLimit = 0
	}
	if p.works != nil {
		p.mu.Lock()
		dir := p.dirs[h.ID]
		p.mu.Unlock()
		if err := p.works(h.ID, dir); err != nil {
			return err
		}
	}
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

func (p *plugins) Destroy(ctx context.Context, h driver.Handle) error {
	p.mu.Lock()
	lost := p.lose > 0
	p.lose--
	p.mu.Unlock()
	if lost {
		return step.Errorf(step.KindUnavailable, "the plugin died")
	}
	return p.Driver.Destroy(ctx, h)
}

func (p *plugins) driverInfo() wire.DriverInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	info := wire.DriverInfo{Name: "memory", Version: "1", Healthy: !p.sick}
	if p.also != nil {
		info.Capabilities = []string{string(driver.CapHost)}
	}
	return info
}

func (p *plugins) List(ctx context.Context, owner string) ([]driver.Listed, error) {
	all, err := p.Driver.List(ctx, owner)
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(all, p.also...), err
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

	room int64 // for artifacts; 0 = the usual
	most int64 // bytes of a layer
	boot string

	limit step.Resources // that any step gets
	usual step.Resources // of a step that does not ask
	disk  diskwatch.Disk

	overdue time.Duration // of the worker; 0 = its own
	w       *Worker
	ledger  *ledger.Ledger
	stop    context.CancelFunc
	ended   chan error
}

// newRig starts it; before may change the parts.
func newRig(t *testing.T, before ...func(*rig)) *rig {
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
	r := &rig{t: t, api: newFakeAPI(t), plugins: newPlugins(t), dir: t.TempDir(), tree: tree, most: 1 << 20, boot: "boot-1"}
	r.disk = diskwatch.Host(r.dir)
	if err := os.Mkdir(filepath.Join(r.dir, "journal"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range before {
		f(r)
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
	reserve, err := journal.NewReserve(filepath.Join(r.dir, "reserve"), slots)
	if err != nil {
		r.t.Fatal(err)
	}
	r.ledger = l
	r.w = New(Config{
		API: r.api.client(), Ledger: l, Cgroups: r.tree, UIDs: ids, Workspaces: work,
		JournalDir: filepath.Join(r.dir, "journal"), Reserve: reserve, Drivers: host{r.plugins}, Observer: metrics.New(),
		Log: slog.New(slog.NewTextHandler(r.t.Output(), nil)), Name: "host-1", Version: "test", Slots: slots,
		LayerBytes: r.most, Boot: r.boot,
		Most: r.limit, Default: r.usual, Disk: diskwatch.New(r.disk, slog.New(slog.NewTextHandler(r.t.Output(), nil))),
	})
	if r.overdue > 0 {
		r.w.overdue = r.overdue
	}
	if r.room > 0 {
		r.w.artifactRoom = r.room
	}
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
