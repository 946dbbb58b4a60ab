package killmatrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
	"github.com/nofx-run/nofx/test/invariant"
)

const (
	lease     = 10 * time.Second
	heartbeat = time.Second
	hitTime   = 30 * time.Second // for a place to be reached
	endTime   = 60 * time.Second // for the run to end after the kill
	// followTime is for the whole round.
	followTime = 2*hitTime + endTime
	// cleanTime is for what a sweep removes: it comes every 15 to 19 s and
	// leaves alone what is younger than 30 s.
	cleanTime = 60 * time.Second
)

// lab is one system with its places.
type lab struct {
	t      *testing.T
	s      *harness.System
	runs   int    // so far
	points string // the folder of the failpoints
	rec    *invariant.Recorder
}

func newLab(t *testing.T, bin string) *lab {
	t.Helper()
	points := t.TempDir()
	s := harness.StartFrom(t, bin, failpoint.Env+"="+points, "NOFX_LEASE="+lease.String(), "NOFX_HEARTBEAT="+heartbeat.String(), "NOFX_WORKSPACE_KEEP=0s")
	l := &lab{t: t, s: s, points: points, rec: invariant.Record(s.Workspaces())}
	t.Cleanup(l.rec.Close)
	t.Cleanup(l.clear) // whoever is held would not hear of the end
	return l
}

func (l *lab) arm(point, of string) {
	name := point
	if of != "" {
		name += "@" + of
	}
	if err := os.WriteFile(filepath.Join(l.points, name), nil, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// held waits until somebody is held at a point.
func (l *lab) held(point string) bool {
	return within(hitTime, func() bool { return there(filepath.Join(l.points, point+".held")) })
}

func (l *lab) release(point string) {
	if err := os.Remove(filepath.Join(l.points, point+".held")); err != nil {
		l.t.Fatal(err)
	}
}

// clear releases everybody and disarms everything.
func (l *lab) clear() {
	for again := true; again; {
		entries, err := os.ReadDir(l.points)
		if err != nil {
			l.t.Error(err)
			return
		}
		again = false
		for _, e := range entries {
			if err := os.Remove(filepath.Join(l.points, e.Name())); err != nil {
				again = errors.Is(err, fs.ErrNotExist) // it was reached just now
			}
		}
	}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// within polls until ok is true, and tells whether it became so in time.
func within(limit time.Duration, ok func() bool) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			return ok()
		case <-tick.C:
		}
	}
	return true
}

// client makes a run, follows it, and notes what it is told.
type client struct {
	l  *lab
	op string

	mu   sync.Mutex
	h    invariant.History
	run  string
	deaf string // why the one who follows did not hear of the run's end, "" = it did
	wait sync.WaitGroup
}

func (c *client) note(f func(*invariant.History)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.h)
}

// id is the run's, "" until the client knows it.
func (c *client) id() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// submit asks with the same key until it has an answer.
func (c *client) submit(steps []wire.PlanStep) {
	in := wire.SubmitRun{Plan: wire.Plan{Goal: c.op, Steps: steps}}
	sent := invariant.Submit{Op: c.op, Key: c.op}
	for _, s := range steps {
		sent.Steps = append(sent.Steps, s.Name)
	}
	within(endTime, func() bool {
		got, err := c.l.s.API().Submit(c.l.t.Context(), in, c.op)
		one := sent
		if err == nil {
			body, _ := json.Marshal(got)
			one.Answered, one.RunID, one.Answer = true, got.ID, string(body)
		}
		c.note(func(h *invariant.History) { h.Submits = append(h.Submits, one) })
		if err != nil {
			return !c.again(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.run = got.ID
		return true
	})
}

// again reports whether an error is a reason to ask again, and fails the test
// for others.
func (c *client) again(err error) bool {
	if step.Is(err, step.KindUnavailable) || step.Is(err, step.KindConflict) {
		return true
	}
	c.l.t.Errorf("%s: %v", c.op, err)
	return false
}

// cancel asks until it has an answer.
func (c *client) cancel() {
	run := c.id()
	within(endTime, func() bool {
		_, err := c.l.s.API().Cancel(c.l.t.Context(), run)
		c.note(func(h *invariant.History) {
			h.Cancels = append(h.Cancels, invariant.Cancel{RunID: run, Answered: err == nil})
		})
		return err == nil || step.Is(err, step.KindConflict) || !c.again(err) // conflict: it has ended
	})
}

// follow reads the run's events as they come to the last. What keeps it from
// that is noted.
func (c *client) follow() {
	if !within(endTime, func() bool { return c.id() != "" }) {
		return // the client has no answer
	}
	run := c.id()
	ctx, cancel := context.WithTimeout(c.l.t.Context(), followTime)
	defer cancel()
	read := func(ctx context.Context, last string, do func([]step.Event) error) error {
		return c.l.s.API().Events(ctx, run, last, do)
	}
	err := stream(ctx, read, func(e step.Event) {
		c.note(func(h *invariant.History) {
			h.Events = append(h.Events, invariant.Seen{Reader: "stream", RunID: run, Seq: e.Seq, ID: e.ID, Type: e.Type, StepID: e.StepID, Attempt: e.Attempt})
		})
	})
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.deaf = fmt.Sprintf("who follows run %s: %v", run, err)
	}
}

// stream reads events up to the end of their run, over as many connections as
// it takes. It is an error if that does not come before ctx ends.
func stream(ctx context.Context, read func(ctx context.Context, last string, do func([]step.Event) error) error, see func(step.Event)) error {
	last, seen, ended := "", 0, false
	for {
		err := read(ctx, last, func(batch []step.Event) error {
			for _, e := range batch {
				last = e.ID
				seen++
				switch e.Type {
				case step.EventRunSucceeded, step.EventRunFailed, step.EventRunCancelled:
					ended = true
				}
				see(e)
			}
			return nil
		})
		// A stream's error is of a connection that broke: the next one is tried.
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
		switch {
		case ended:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("the stream did not come to the run's end, %d events came, the last is %q: %w", seen, last, errors.Join(ctx.Err(), err))
		}
	}
}

// look notes the run's steps as they stand.
func (c *client) look() (wire.RunDetail, bool) {
	d, ok := c.l.s.Run(c.id())
	if ok {
		c.note(func(h *invariant.History) {
			for _, s := range d.Steps {
				h.States = append(h.States, invariant.State{RunID: d.Run.ID, StepID: s.ID, Generation: s.Generation, Status: s.Status})
			}
		})
	}
	return d, ok
}

// stepEnded reports whether the API has the end of the step of that name.
func (c *client) stepEnded(name string) bool {
	d, ok := c.look()
	return ok && c.l.s.Step(d, name).Status.Terminal()
}

// wrote reports whether the step of that name has written some lines.
func (c *client) wrote(name string) bool {
	d, ok := c.look()
	if !ok || c.l.s.Step(d, name).Attempt == 0 {
		return false
	}
	text, _ := c.l.s.Output(c.id(), c.l.s.Step(d, name).ID)
	return strings.Contains(text, name+" line 3\n")
}
