package suite

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"

	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// fixture is what a case works with: a driver of its own and an owner that
// nobody else has.
type fixture struct {
	Factory
	d       driver.Driver
	restart func(t T) driver.Driver
	conn    grpc.ClientConnInterface
	process bool // restart kills a process
	desc    driver.Description
	owner   string
}

func open(t T, f Factory) *fixture {
	t.Helper()
	in := f.Open(t)
	fx := &fixture{Factory: f, d: in.Driver, restart: in.Restart, conn: in.Conn, process: in.Process, owner: "drivertest-" + random()}
	ctx := fx.ctx(t)
	var err error
	if fx.desc, err = fx.d.Describe(ctx); err != nil {
		t.Fatalf("describe: %v", err)
	}
	if err := fx.d.Configure(ctx, f.Config); err != nil {
		t.Fatalf("configure: %v", err)
	}
	// What it can do may depend on its configuration.
	if fx.desc, err = fx.d.Describe(ctx); err != nil {
		t.Fatalf("describe, configured: %v", err)
	}
	if f.OutsideDir == "" {
		fx.OutsideDir = t.TempDir()
	}
	return fx
}

// ctx bounds one case's call.
func (fx *fixture) ctx(t T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), fx.long())
	t.Cleanup(cancel)
	return ctx
}

// spec is a valid spec of a new sandbox.
func (fx *fixture) spec(t T, change ...func(*driver.Spec)) driver.Spec {
	t.Helper()
	id := "dt-" + random()
	s := driver.Spec{ID: id, Tags: driver.Tags{Owner: fx.owner, ID: "tag-" + id}}
	if fx.desc.Capabilities.Has(driver.CapNetNone) {
		s.Network = step.NetworkNone
	}
	if fx.Spec != nil {
		fx.Spec(t, &s)
	}
	for _, f := range change {
		f(&s)
	}
	return s
}

// create makes a sandbox that goes with the case.
func (fx *fixture) create(t T, change ...func(*driver.Spec)) driver.Handle {
	t.Helper()
	s := fx.spec(t, change...)
	h, err := fx.d.Create(fx.ctx(t), s)
	if err != nil {
		t.Cleanup(func() { fx.abandon(s.ID) })
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { fx.destroy(t, h) })
	return h
}

// abandon removes what a call that failed or was given up has made all the same.
func (fx *fixture) abandon(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), fx.long())
	defer cancel()
	all, _ := fx.d.List(ctx, fx.owner) // that Create failed was reported
	for _, l := range all {
		if l.Handle.ID == id {
			_ = fx.d.Destroy(ctx, l.Handle)
		}
	}
}

func (fx *fixture) destroy(t T, h driver.Handle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), fx.long())
	defer cancel()
	if err := fx.d.Destroy(ctx, h); err != nil {
		t.Errorf("destroy: %v", err)
	}
}

// exec is a spec that runs argv.
func (fx *fixture) exec(argv []string, change ...func(*driver.ExecSpec)) driver.ExecSpec {
	s := driver.ExecSpec{ID: "x-" + random(), Argv: argv, Env: fx.Env}
	for _, f := range change {
		f(&s)
	}
	return s
}

// result is what an exec gave.
type result struct {
	stdout, stderr, all []byte
	exit                *driver.Exit
	events              int
}

// collect gathers an exec's events and checks their form.
type collector struct {
	mu      sync.Mutex
	next    int64
	r       result
	problem string
	changed chan struct{}
}

func newCollector(offset int64) *collector {
	return &collector{next: offset, changed: make(chan struct{})}
}

func (c *collector) sink(e driver.ExecEvent) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.events++
	switch {
	case c.r.exit != nil:
		c.problem = "an event follows the exit"
	case e.Exit != nil && len(e.Data) > 0:
		c.problem = "the exit carries data"
	case e.Exit != nil:
		x := *e.Exit
		c.r.exit = &x
	case e.Offset != c.next:
		c.problem = "the offsets are not contiguous"
	case e.Stream == driver.Stdout:
		c.r.stdout = append(c.r.stdout, e.Data...)
	case e.Stream == driver.Stderr:
		c.r.stderr = append(c.r.stderr, e.Data...)
	default:
		c.problem = "an event of no stream"
	}
	c.r.all = append(c.r.all, e.Data...)
	c.next += int64(len(e.Data))
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// finish checks the whole once the stream has ended.
func (c *collector) finish(t T) result {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.problem != "":
		t.Fatalf("output: %s", c.problem)
	case c.r.exit == nil:
		t.Fatal("output: the stream ended without an exit")
	case !c.r.exit.Cause.Valid():
		t.Fatalf("exit: cause %q", c.r.exit.Cause)
	case c.r.exit.Attested != step.AttestedKernel && c.r.exit.Attested != step.AttestedVendor && c.r.exit.Attested != step.AttestedGuest:
		t.Fatalf("exit: attested by %q", c.r.exit.Attested)
	}
	return c.r
}

// until waits for stdout to hold text.
func (c *collector) until(t T, ctx context.Context, text string) {
	t.Helper()
	for {
		c.mu.Lock()
		found, changed := bytes.Contains(c.r.stdout, []byte(text)), c.changed
		ended := c.r.exit
		got := string(c.r.all)
		c.mu.Unlock()
		if found {
			return
		}
		if ended != nil {
			t.Fatalf("it ended (%+v) before it said %q; it said %q", *ended, text, got)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("it did not say %q in time; it said %q", text, got)
		}
	}
}

// run runs an exec to its end.
func (fx *fixture) run(t T, h driver.Handle, s driver.ExecSpec) result {
	t.Helper()
	c := newCollector(0)
	if err := fx.d.Exec(fx.ctx(t), h, s, c.sink); err != nil {
		t.Fatalf("exec %s: %v", strings.Join(s.Argv, " "), err)
	}
	r := c.finish(t)
	if r.exit.OutputBytes != int64(len(r.all)) {
		t.Errorf("exec %s: exit says %d bytes of output, %d came", s.ID, r.exit.OutputBytes, len(r.all))
	}
	return r
}

// attach reads an exec from offset to its end.
func (fx *fixture) attach(t T, h driver.Handle, id string, offset int64) result {
	t.Helper()
	c := newCollector(offset)
	if err := fx.d.Attach(fx.ctx(t), h, id, offset, c.sink); err != nil {
		t.Fatalf("attach to %s from %d: %v", id, offset, err)
	}
	return c.finish(t)
}

// running is an exec under way.
type running struct {
	*collector
	fx     *fixture
	h      driver.Handle
	spec   driver.ExecSpec
	cancel context.CancelFunc
	ended  chan error
}

// start starts an exec; it is detached from at the end of the case.
func (fx *fixture) start(t T, h driver.Handle, s driver.ExecSpec) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*fx.long())
	r := &running{collector: newCollector(0), fx: fx, h: h, spec: s, cancel: cancel, ended: make(chan error, 1)}
	d := fx.d
	go func() { r.ended <- d.Exec(ctx, h, s, r.sink) }()
	t.Cleanup(cancel)
	return r
}

// startReady starts an exec of a program that says when it is ready.
func (fx *fixture) startReady(t T, h driver.Handle, s driver.ExecSpec) *running {
	t.Helper()
	r := fx.start(t, h, s)
	r.until(t, fx.ctx(t), "ready\n")
	return r
}

// wait waits for the exec's end.
func (r *running) wait(t T) result {
	t.Helper()
	select {
	case err := <-r.ended:
		if err != nil {
			t.Fatalf("exec %s: %v", r.spec.ID, err)
		}
	case <-r.fx.ctx(t).Done():
		t.Fatalf("exec %s did not end in time", r.spec.ID)
	}
	return r.finish(t)
}

// detached waits for the call to end without the exec's end.
func (r *running) detached(t T) error {
	t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-r.fx.ctx(t).Done():
		t.Fatalf("the call of exec %s did not end in time", r.spec.ID)
		return nil
	}
}

// need skips the case if the driver does not declare c; refused is then tried
// and must answer unsupported.
func (fx *fixture) need(t T, c driver.Capability, refused func() error) {
	t.Helper()
	if fx.desc.Capabilities.Has(c) {
		return
	}
	if refused != nil {
		wantKind(t, string(c)+" without the capability", refused(), step.KindUnsupported)
	}
	t.Skipf("the driver does not declare %s", c)
}

// needSeveral skips a case that takes several execs in one sandbox.
func (fx *fixture) needSeveral(t T) {
	t.Helper()
	fx.need(t, driver.CapMultiExec, func() error {
		h := fx.create(t)
		fx.run(t, h, fx.exec(fx.Programs.Exit(0)))
		return fx.d.Exec(fx.ctx(t), h, fx.exec(fx.Programs.Exit(0)), func(driver.ExecEvent) error { return nil })
	})
}

// readFile gives a file of the sandbox, nil if it is not there. It needs
// CapFiles or CapMultiExec.
func (fx *fixture) readFile(t T, h driver.Handle, path string) []byte {
	t.Helper()
	if fx.desc.Capabilities.Has(driver.CapFiles) {
		var buf bytes.Buffer
		err := fx.d.CopyOut(fx.ctx(t), h, path, 0, &buf)
		if step.Is(err, step.KindNotFound) {
			return nil
		}
		if err != nil {
			t.Fatalf("copy out of %s: %v", path, err)
		}
		for _, e := range untar(t, buf.Bytes()) {
			return e.data
		}
		return nil
	}
	fx.needSeveral(t)
	return fx.run(t, h, fx.exec(fx.Programs.Read(path))).stdout
}

// grows reports whether a file's size changes within a moment.
func (fx *fixture) grows(t T, h driver.Handle, path string) bool {
	t.Helper()
	before := len(fx.readFile(t, h, path))
	fx.pause(t, 400*time.Millisecond)
	return len(fx.readFile(t, h, path)) != before
}

// pause lets d pass: some promises are that nothing happens.
func (fx *fixture) pause(t T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// eventually tries f until it is true.
func (fx *fixture) eventually(t T, what string, f func() bool) {
	t.Helper()
	ctx := fx.ctx(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it did not come about in time: %s", what)
		}
	}
}

// wantKind fails the case unless err is of the kind.
func wantKind(t T, what string, err error, kinds ...step.Kind) {
	t.Helper()
	for _, k := range kinds {
		if step.Is(err, k) {
			return
		}
	}
	t.Errorf("%s: got %q (%v), want %v", what, step.KindOf(err), err, kinds)
}

// wantCancelled fails the case unless err tells of the context's end.
func wantCancelled(t T, what string, err error) {
	t.Helper()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%s: got %v, want the context's error", what, err)
	}
}

func random() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Pause lets d pass, or less when the case's context ends.
func Pause(t T, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
