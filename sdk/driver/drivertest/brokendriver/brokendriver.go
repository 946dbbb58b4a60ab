// Package brokendriver is a driver with one defect, each one that a real driver
// might have. With it the conformance suite is checked: every defect must turn
// a case red.
package brokendriver

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Driver is a driver with one defect.
type Driver struct {
	*careless
	defect string

	mu    sync.Mutex
	seen  map[string]int // execs, destroys
	links map[string]string
}

// New gives d a defect, one of Defects; with any other it is as it was. dir is
// a folder for what outlives the process; "" = there is none.
func New(d driver.Driver, defect, dir string) *Driver {
	return &Driver{careless: newCareless(d, defect, dir), defect: defect, seen: map[string]int{}, links: map[string]string{}}
}

// again counts how often it was called with key before.
func (d *Driver) again(key string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[key]++
	return d.seen[key] - 1
}

// Create implements driver.Driver.
func (d *Driver) Create(ctx context.Context, s driver.Spec) (driver.Handle, error) {
	switch d.defect {
	case "create-starts-anew":
		if d.again("create "+s.ID) > 0 {
			if h, err := d.careless.Create(ctx, s); err == nil {
				_ = d.careless.Destroy(ctx, h)
			}
		}
	case "ignores-unknown-isolation":
		s.Isolation = ""
	case "ignores-isolation":
		if s.Isolation == driver.IsolationGVisor || s.Isolation == driver.IsolationNamespace {
			s.Isolation = ""
		}
	case "ignores-network":
		if s.Network == step.NetworkNone || s.Network == step.NetworkAllow {
			s.Network, s.Egress = "", step.Egress{}
		}
	case "never-connects":
		if s.Network == step.NetworkOpen || s.Network == step.NetworkAllow {
			s.Network = step.NetworkNone
		}
	case "no-network-in-gvisor":
		if s.Isolation == driver.IsolationGVisor {
			s.Network = step.NetworkNone
		}
	case "allows-every-port":
		allow := make([]string, len(s.Egress.Allow))
		for i, rule := range s.Egress.Allow {
			host, _, _ := strings.Cut(rule, ":")
			allow[i] = host + ":*"
		}
		s.Egress.Allow = allow
	case "open-to-all":
		if s.Network == step.NetworkOpen {
			s.Network = ""
		}
	case "ignores-what-it-cannot":
		s.Resources, s.Network = step.Resources{}, ""
	case "ignores-lease":
		s.Until = 0
	}
	return d.careless.Create(ctx, s)
}

// Exec implements driver.Driver.
func (d *Driver) Exec(ctx context.Context, h driver.Handle, s driver.ExecSpec, sink driver.Sink) error {
	id := s.ID
	switch d.defect {
	case "ignores-terminal":
		s.TTY = nil
	case "ignores-timeout":
		s.Timeout = 0
	case "ignores-output-limit":
		s.OutputLimit = 0
	case "truncates-instead-of-killing":
		s.OnOutput = step.OutputTruncate
	case "leaks-environment":
		s.Env = append(s.Env, "HOST_SECRET=hunter2")
	case "runs-twice":
		if n := d.again("exec " + h.ID + s.ID); n > 0 {
			s.ID += "-again"
		}
	case "forgets-stdin":
		s.Stdin = nil
	case "ignores-cwd":
		s.Cwd = ""
	}
	err := d.careless.Exec(ctx, h, s, d.spoil(sink))
	switch {
	case d.defect == "cancel-kills" && ctx.Err() != nil:
		_ = d.careless.Signal(context.WithoutCancel(ctx), h, id, "SIGKILL")
	case d.defect == "leaves-daemons" && err == nil && slices.Contains(s.Argv, "/workspace/beat"):
		go func() {
			beat := driver.ExecSpec{ID: "left-over", Argv: []string{"mem", "beat", "/workspace/beat"}}
			_ = d.careless.Exec(context.WithoutCancel(ctx), h, beat, func(driver.ExecEvent) error { return nil })
		}()
	}
	return err
}

// Attach implements driver.Driver.
func (d *Driver) Attach(ctx context.Context, h driver.Handle, id string, offset int64, sink driver.Sink) error {
	if d.defect == "attach-from-start" {
		offset = 0
	}
	return d.careless.Attach(ctx, h, id, offset, d.spoil(sink))
}

// spoil is a sink that passes on what the defect leaves of the events.
func (d *Driver) spoil(sink driver.Sink) driver.Sink {
	var held *driver.ExecEvent
	return func(e driver.ExecEvent) error {
		switch d.defect {
		case "loses-tail": // the last output before the exit is not passed on
			before := held
			held = &e
			if e.Exit != nil {
				return sink(e)
			}
			if before == nil {
				return nil
			}
			return sink(*before)
		case "exit-0-on-signal":
			if e.Exit != nil && e.Exit.Cause == step.CauseSignal {
				e.Exit = &driver.Exit{Cause: step.CauseExit, Attested: e.Exit.Attested, OutputBytes: e.Exit.OutputBytes}
			}
		case "invents-usage":
			if e.Exit != nil {
				x := *e.Exit
				x.Usage.CPUUsec = 1
				e.Exit = &x
			}
		case "mixes-streams":
			if e.Exit == nil {
				e.Stream = driver.Stdout
			}
		case "swaps-bytes":
			if len(e.Data) > 1000 {
				e.Data = bytes.Clone(e.Data)
				e.Data[999]++
			}
		}
		return sink(e)
	}
}

// Recover implements driver.Driver.
func (d *Driver) Recover(ctx context.Context, h driver.Handle) (driver.State, error) {
	st, err := d.careless.Recover(ctx, h)
	switch {
	case d.defect == "says-gone-for-exited" && st.Phase == driver.PhaseExited:
		return driver.State{Phase: driver.PhaseGone}, err
	case d.defect == "forgets-exits":
		for i := range st.Execs {
			st.Execs[i].Exit = nil
		}
	case d.defect == "errors-for-gone" && st.Phase == driver.PhaseGone:
		return st, step.Errorf(step.KindNotFound, "no such sandbox")
	}
	return st, err
}

// Signal implements driver.Driver.
func (d *Driver) Signal(ctx context.Context, h driver.Handle, id, sig string) error {
	err := d.careless.Signal(ctx, h, id, sig)
	if d.defect == "plain-errors" && err != nil {
		return errors.New(err.Error())
	}
	return err
}

// Stop implements driver.Driver.
func (d *Driver) Stop(ctx context.Context, h driver.Handle, grace time.Duration, cause step.Cause) error {
	switch d.defect {
	case "stops-without-grace":
		grace = 0
	case "stop-does-not-wait":
		go func() { _ = d.careless.Stop(context.WithoutCancel(ctx), h, grace, cause) }()
		return nil
	case "stop-forgets-cause":
		cause = step.CauseCancelled
	}
	return d.careless.Stop(ctx, h, grace, cause)
}

// Destroy implements driver.Driver.
func (d *Driver) Destroy(ctx context.Context, h driver.Handle) error {
	switch {
	case d.defect == "destroys-once" && d.again("destroy "+h.ID) > 0:
		return step.Errorf(step.KindNotFound, "no such sandbox")
	case d.defect == "destroy-forgets":
		return nil
	}
	return d.careless.Destroy(ctx, h)
}

// Extend implements driver.Driver.
func (d *Driver) Extend(ctx context.Context, h driver.Handle, until driver.Deadline) error {
	if d.defect == "never-extends" {
		return nil
	}
	return d.careless.Extend(ctx, h, until)
}

// List implements driver.Driver.
func (d *Driver) List(ctx context.Context, owner string) ([]driver.Listed, error) {
	all, err := d.careless.List(ctx, owner)
	if d.defect == "made-long-ago" {
		for i := range all {
			all[i].CreatedAt = time.Unix(1, 0)
		}
	}
	if d.defect == "lists-others" {
		others, _ := d.careless.List(ctx, owner+"-other")
		all = append(all, others...)
	}
	return all, err
}

// Health implements driver.Driver.
func (d *Driver) Health(ctx context.Context, sink func(driver.Health) error) error {
	if d.defect == "silent-health" {
		<-ctx.Done()
		return ctx.Err()
	}
	if d.defect == "healthy-once" {
		if err := sink(driver.Health{Healthy: true}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return d.careless.Health(ctx, sink)
}

// CopyOut implements driver.Driver.
func (d *Driver) CopyOut(ctx context.Context, h driver.Handle, path string, limit int64, out io.Writer) error {
	switch d.defect {
	case "copy-out-without-limit":
		limit = 0
	case "copy-out-follows-links":
		d.mu.Lock()
		target, ok := d.links[filepath.Base(path)]
		d.mu.Unlock()
		if data, err := os.ReadFile(target); ok && err == nil {
			w := tar.NewWriter(out)
			if err := w.WriteHeader(&tar.Header{Name: filepath.Base(path), Mode: 0o644, Size: int64(len(data))}); err != nil {
				return err
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
			return w.Close()
		}
	}
	return d.careless.CopyOut(ctx, h, path, limit, out)
}

// CopyIn implements driver.Driver, with the defect of an unpacker that trusts names and links, on the
// host's own file system.
func (d *Driver) CopyIn(ctx context.Context, h driver.Handle, dir string, in io.Reader) error {
	data, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	if d.defect == "loses-exec-bit" {
		data = bytes.ReplaceAll(data, []byte("0000755\x00"), []byte("0000644\x00"))
	}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		e, err := r.Next()
		if err != nil {
			break
		}
		d.mu.Lock()
		if e.Typeflag == tar.TypeSymlink {
			d.links[e.Name] = e.Linkname
		}
		top, rest, _ := strings.Cut(e.Name, "/")
		target, ok := d.links[top]
		d.mu.Unlock()
		if d.defect == "copy-in-follows-links" && ok && rest != "" && filepath.IsAbs(target) {
			return os.WriteFile(filepath.Join(target, rest), []byte("x"), 0o644)
		}
	}
	return d.careless.CopyIn(ctx, h, dir, bytes.NewReader(data))
}

// Metrics implements driver.Metered.
func (d *Driver) Metrics(ctx context.Context) ([]driver.Sample, error) {
	desc, err := d.Driver.Describe(ctx)
	if err != nil {
		return nil, err
	}
	s := driver.Sample{Name: driver.SamplePrefix(desc.Name) + "creates_total", Kind: driver.Counter, Value: 1}
	if d.defect == "counts-nonsense" {
		s.Name = "creates"
	}
	return []driver.Sample{s}, nil
}
