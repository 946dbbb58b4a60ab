package supervised

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Recover implements driver.Driver.
func (b *Boxes) Recover(ctx context.Context, h driver.Handle) (driver.State, error) {
	dir, err := b.Folder(h)
	if err != nil {
		return driver.State{}, err
	}
	return b.state(ctx, h, dir)
}

func (b *Boxes) state(ctx context.Context, h driver.Handle, dir string) (driver.State, error) {
	gone := driver.State{Phase: driver.PhaseGone}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return gone, nil
	}
	var st supervisor.Status
	alive := true
	err := b.ask(ctx, h, dir, func(c *supervisor.Conn) (err error) {
		st, err = c.Status(ctx)
		return err
	}, func() error {
		alive = false
		return nil
	})
	if step.Is(err, step.KindNotFound) {
		return gone, nil
	}
	if err != nil {
		return driver.State{}, err
	}
	if !alive {
		if life, err := supervisor.Look(dir); err == nil && !life.Complete {
			return gone, nil // its creation never came to an end
		}
	}
	return b.readState(ctx, dir, st, alive)
}

// readState puts a sandbox's state together from its files and what its
// supervisor said before they were read.
func (b *Boxes) readState(ctx context.Context, dir string, st supervisor.Status, alive bool) (driver.State, error) {
	ids, err := supervisor.Execs(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return driver.State{Phase: driver.PhaseGone}, nil
	}
	if err != nil {
		return driver.State{}, step.Errorf(step.KindInternal, "%w", err)
	}
	state := driver.State{Phase: driver.PhaseExited}
	if len(ids) == 0 && alive && st.Alive {
		state.Phase = driver.PhaseCreated
	}
	for _, id := range ids {
		r, err := supervisor.ReadRecord(dir, id)
		if errors.Is(err, fs.ErrNotExist) {
			state.Phase = driver.PhaseRunning
			state.Execs = append(state.Execs, driver.ExecState{ID: id, OutputBytes: st.Running[id]})
			continue
		}
		if err != nil {
			return driver.State{}, step.Errorf(step.KindInternal, "%w", err)
		}
		x, err := b.exitOf(ctx, dir, r)
		if err != nil { // it never ran: the call that asked for it said so
			x = &driver.Exit{Cause: step.CauseLost, Code: -1, Attested: step.AttestedKernel, Message: err.Error()}
		}
		state.Execs = append(state.Execs, driver.ExecState{ID: id, Exit: x, OutputBytes: x.OutputBytes})
	}
	return state, nil
}

// List implements driver.Driver.
func (b *Boxes) List(ctx context.Context, owner string) ([]driver.Listed, error) {
	stateDir, _, err := b.configured()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(stateDir)
	if err != nil {
		return nil, step.Errorf(step.KindInternal, "state_dir: %w", err)
	}
	var all []driver.Listed
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		dir := filepath.Join(stateDir, e.Name())
		s, err := readSpec(dir)
		if err != nil || s.Spec.Tags.Owner != owner || s.Spec.ID != e.Name() {
			continue // being made or removed, or a foreign one
		}
		h, err := b.Handle(stateDir, e.Name())
		if err != nil {
			return nil, err
		}
		st, err := b.state(ctx, h, dir)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			st.Phase = driver.PhaseRunning // it is there: nobody may think that it is not
		}
		if st.Phase == driver.PhaseGone {
			if _, err := os.Lstat(dir); err != nil {
				continue
			}
			st.Phase = driver.PhaseExited // what is left of one that was never whole
		}
		all = append(all, driver.Listed{Handle: h, Tags: s.Spec.Tags, Phase: st.Phase, CreatedAt: s.CreatedAt})
	}
	return all, nil
}
