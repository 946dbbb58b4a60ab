package brokendriver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// careless has the defects of drivers that do not keep an account of what they
// do: of sandboxes, processes, calls under way.
type careless struct {
	driver.Driver
	leases *leases
	defect string
	dir    string // outlives the process; "" = there is none

	mu      sync.Mutex
	busy    map[string]int // calls under way
	known   map[string]driver.Handle
	removed map[string]bool
	copied  map[string]bool
	kept    []*os.File
}

func newCareless(d driver.Driver, defect, dir string) *careless {
	leases := newLeases(d, defect, dir)
	return &careless{
		Driver: leases, leases: leases, defect: defect, dir: dir,
		busy: map[string]int{}, known: map[string]driver.Handle{}, removed: map[string]bool{}, copied: map[string]bool{},
	}
}

// enter counts a call under way; it gives the number before, and what ends it.
func (c *careless) enter(key string) (int, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[key]++
	return c.busy[key] - 1, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.busy[key]--
	}
}

func (c *careless) Describe(ctx context.Context) (driver.Description, error) {
	d, err := c.Driver.Describe(ctx)
	if err != nil {
		return d, err
	}
	drop := func(gone driver.Capability) {
		d.Capabilities = slices.DeleteFunc(slices.Clone(d.Capabilities), func(have driver.Capability) bool { return have == gone })
	}
	switch c.defect {
	case "describes-once":
		if before, _ := c.enter("describe"); before > 0 {
			return d, errors.New("said already")
		}
	case "version-is-noise":
		d.Version = "1.0\x00\n"
	case "schema-lets-all-pass":
		d.ConfigSchema = json.RawMessage(`{"type":"object"}`)
	case "ignores-what-it-cannot":
		d.Capabilities = driver.Capabilities{}
	case "destroy-needs-memory":
		drop(driver.CapReattach)
	}
	return d, nil
}

func (c *careless) Configure(ctx context.Context, config json.RawMessage) error {
	switch c.defect {
	case "accepts-any-configuration":
		return nil
	case "configure-starts-anew":
		c.mu.Lock()
		known := c.known
		c.known = map[string]driver.Handle{}
		c.mu.Unlock()
		for _, h := range known {
			_ = c.Driver.Destroy(ctx, h)
		}
	}
	return c.Driver.Configure(ctx, config)
}

func (c *careless) Create(ctx context.Context, s driver.Spec) (driver.Handle, error) {
	switch c.defect {
	case "dies-in-create":
		os.Exit(7)
	case "refuses-long-ids":
		if len(s.ID) > 64 {
			return driver.Handle{}, step.Errorf(step.KindInvalid, "the id is too long")
		}
	case "create-collides":
		before, leave := c.enter("create " + s.ID)
		defer leave()
		if before > 0 {
			return driver.Handle{}, step.Errorf(step.KindConflict, "somebody creates it already")
		}
		wait(ctx, 20*time.Millisecond)
	case "ids-are-used-up":
		c.mu.Lock()
		used := c.removed[s.ID]
		c.mu.Unlock()
		if used {
			return driver.Handle{}, step.Errorf(step.KindConflict, "the id was used")
		}
	case "never-counts-down":
		if n, _ := c.enter("sandboxes"); n >= 10 {
			return driver.Handle{}, step.Errorf(step.KindUnavailable, "too many")
		}
	case "ignores-caps":
		s.Resources = step.Resources{}
	case "half-made":
		done, err := c.locked(s.ID + ".creating")
		if err != nil {
			return driver.Handle{}, err
		}
		defer done()
		wait(ctx, 10*time.Millisecond)
	case "given-up-is-lost":
		wait(ctx, 10*time.Millisecond)
		c.mu.Lock()
		if ctx.Err() != nil {
			c.removed[s.ID] = true
		}
		lost := c.removed[s.ID]
		c.mu.Unlock()
		if lost {
			return driver.Handle{}, step.Errorf(step.KindConflict, "half of it is there")
		}
	}
	h, err := c.Driver.Create(ctx, s)
	if err == nil {
		c.mu.Lock()
		c.known[s.ID] = h
		c.mu.Unlock()
	}
	return h, err
}

func (c *careless) Extend(ctx context.Context, h driver.Handle, until driver.Deadline) error {
	if c.defect != "extends-by-itself" {
		return c.Driver.Extend(ctx, h, until)
	}
	// It is this process that keeps to it, a little at a time.
	soon := func() driver.Deadline { return min(until, driver.After(300*time.Millisecond)) }
	if err := c.Driver.Extend(ctx, h, soon()); err != nil {
		return err
	}
	go func() {
		for until.Left() > 0 && c.Driver.Extend(context.WithoutCancel(ctx), h, soon()) == nil {
			wait(context.WithoutCancel(ctx), 50*time.Millisecond)
		}
	}()
	return nil
}

func (c *careless) Destroy(ctx context.Context, h driver.Handle) error {
	switch c.defect {
	case "half-made":
		done, err := c.locked(h.ID + ".destroying")
		if err != nil {
			return err
		}
		defer done()
		wait(ctx, 10*time.Millisecond)
	case "destroy-needs-memory":
		c.mu.Lock()
		_, ok := c.known[h.ID]
		c.mu.Unlock()
		if !ok {
			return step.Errorf(step.KindNotFound, "no such sandbox")
		}
	}
	h = c.any(h)
	c.mu.Lock()
	delete(c.known, h.ID)
	c.removed[h.ID] = true
	c.mu.Unlock()
	return c.Driver.Destroy(ctx, h)
}

// locked makes a file that its process's death leaves.
func (c *careless) locked(name string) (func(), error) {
	name = filepath.Join(c.dir, name)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, step.Errorf(step.KindConflict, "it is locked: %w", err)
	}
	return func() { _, _ = f.Close(), os.Remove(name) }, nil
}

// any makes every handle one of ours.
func (c *careless) any(h driver.Handle) driver.Handle {
	if c.defect == "takes-any-handle" {
		c.mu.Lock()
		defer c.mu.Unlock()
		if ours, ok := c.known[h.ID]; ok {
			return ours
		}
	}
	return h
}

func (c *careless) Recover(ctx context.Context, h driver.Handle) (driver.State, error) {
	if c.defect == "calls-collide" {
		before, leave := c.enter("recover " + h.ID)
		defer leave()
		if before > 0 {
			return driver.State{}, errors.New("concurrent map writes")
		}
		wait(ctx, 5*time.Millisecond)
	}
	if c.defect == "panics" && h.Version < 0 {
		panic("index out of range [-1]")
	}
	return c.Driver.Recover(ctx, c.any(h))
}

func (c *careless) Signal(ctx context.Context, h driver.Handle, id, signal string) error {
	if c.defect == "kill-is-term" && signal == "SIGKILL" {
		signal = "SIGTERM"
	}
	err := c.Driver.Signal(ctx, h, id, signal)
	if c.defect == "late-signals-pass" && step.Is(err, step.KindConflict) {
		return nil
	}
	return err
}

func (c *careless) Exec(ctx context.Context, h driver.Handle, s driver.ExecSpec, sink driver.Sink) error {
	switch c.defect {
	case "workspace-elsewhere":
		s.Argv = slices.Clone(s.Argv)
		for i := range s.Argv {
			s.Argv[i] = strings.ReplaceAll(s.Argv[i], "/workspace/", "/tmp/")
		}
	case "repeat-is-a-conflict", "one-exec-only":
		key := "exec " + h.ID
		if c.defect == "repeat-is-a-conflict" {
			key += " " + s.ID
		}
		before, leave := c.enter(key)
		defer leave()
		if before > 0 {
			return step.Errorf(step.KindConflict, "an exec is running")
		}
	case "leaks-descriptors":
		f, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.kept = append(c.kept, f)
		c.mu.Unlock()
	case "leaves-processes":
		if err := leave(s.Env); err != nil {
			return err
		}
	}
	return c.Driver.Exec(ctx, h, s, c.bend(sink))
}

// leave starts a process that outlives the exec, the sandbox and the driver,
// for a few seconds.
func leave(env []string) error {
	cmd := exec.CommandContext(context.Background(), "/bin/sleep", "4")
	cmd.Env, cmd.SysProcAttr = env, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

func (c *careless) Attach(ctx context.Context, h driver.Handle, id string, offset int64, sink driver.Sink) error {
	if c.defect == "attaches-at-the-end" {
		if st, err := c.Driver.Recover(ctx, h); err == nil && st.Phase == driver.PhaseRunning {
			return step.Errorf(step.KindConflict, "it is still running")
		}
	}
	return c.Driver.Attach(ctx, h, id, offset, c.bend(sink))
}

// bend is a sink that passes on the events in the defect's way.
func (c *careless) bend(sink driver.Sink) driver.Sink {
	var held []driver.ExecEvent
	slow := false
	return func(e driver.ExecEvent) error {
		switch c.defect {
		case "all-failures-are-1":
			if e.Exit != nil && e.Exit.Code > 1 {
				x := *e.Exit
				x.Code = 1
				e.Exit = &x
			}
		case "unknown-command-is-internal":
			if e.Exit != nil && e.Exit.Code == 127 {
				return errors.New("exec: no such file")
			}
		case "invents-output":
			if e.Exit != nil && e.Offset == 0 {
				if err := sink(driver.ExecEvent{Stream: driver.Stdout, Data: []byte("\n")}); err != nil {
					return err
				}
				e.Offset = 1
			}
		case "holds-output":
			if e.Exit == nil {
				e.Data = slices.Clone(e.Data)
				held = append(held, e)
				return nil
			}
			for _, h := range held {
				if err := sink(h); err != nil {
					return err
				}
			}
		case "drops-for-the-slow":
			if slow && e.Exit == nil {
				slow = false
				return nil
			}
			began := time.Now()
			err := sink(e)
			slow = time.Since(began) > 100*time.Millisecond
			return err
		}
		return sink(e)
	}
}

func (c *careless) Stats(ctx context.Context, h driver.Handle) (driver.Stats, error) {
	st, err := c.Driver.Stats(ctx, h)
	if c.defect == "stats-of-nothing" && err == nil {
		return driver.Stats{}, nil
	}
	return st, err
}

func (c *careless) CopyIn(ctx context.Context, h driver.Handle, dir string, tar io.Reader) error {
	switch c.defect {
	case "copies-elsewhere":
		dir = strings.Replace(dir, "/workspace", "/tmp", 1)
	case "keeps-old-files":
		c.mu.Lock()
		again := c.copied[h.ID]
		c.copied[h.ID] = true
		c.mu.Unlock()
		if again {
			_, err := io.Copy(io.Discard, tar)
			return err
		}
	}
	err := c.Driver.CopyIn(ctx, h, dir, tar)
	if c.defect == "takes-any-archive" && step.Is(err, step.KindInvalid) {
		return nil
	}
	return err
}

// Invoke implements driver.Invoker, which a driver without the capability must
// not.
func (c *careless) Invoke(context.Context, driver.Invocation) (driver.Response, error) {
	if c.defect == "invokes-nothing" {
		return driver.Response{Exit: driver.Exit{Cause: step.CauseExit, Attested: step.AttestedKernel}}, nil
	}
	return driver.Response{}, step.Errorf(step.KindUnsupported, "this driver runs no functions")
}

// wait lets d pass, or less when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
