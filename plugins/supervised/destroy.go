package supervised

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nofx-run/nofx/internal/pidfd"
	"github.com/nofx-run/nofx/internal/rmtree"
	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Destroy implements driver.Driver.
func (b *Boxes) Destroy(ctx context.Context, h driver.Handle) error {
	dir, err := b.Folder(h)
	if err != nil {
		return err
	}
	unlock, err := b.locks.Lock(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		b.forget(dir)
		return b.engine.Remove(ctx, h.ID, dir)
	}
	return b.remove(ctx, dir)
}

// remove ends the sandbox and removes its folder. Its lock is held.
func (b *Boxes) remove(ctx context.Context, dir string) error {
	if err := b.end(ctx, dir); err != nil {
		return err
	}
	b.forget(dir)
	life, err := supervisor.Look(dir)
	if err != nil {
		return step.Errorf(step.KindInternal, "%w", err)
	}
	return b.wipe(ctx, dir, life)
}

// end asks the supervisor to end, for a while; what it does not do, wipe does.
func (b *Boxes) end(ctx context.Context, dir string) error {
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := b.connect(short, dir)
	if err != nil {
		return ctx.Err()
	}
	defer c.Close()
	_ = c.Destroy(short)
	return ctx.Err()
}

// wipe makes sure that nothing of a sandbox runs, with or without a
// supervisor, and removes its folder.
func (b *Boxes) wipe(ctx context.Context, dir string, life supervisor.Life) error {
	if err := killRemains(dir, life); err != nil {
		return err
	}
	if s, err := readSpec(dir); err == nil && b.GVisor(s.Spec) {
		if err := empty(ctx, s.Group); err != nil {
			return err
		}
	}
	if err := egress.Stop(ctx, dir); err != nil {
		return err
	}
	if err := b.engine.Remove(ctx, filepath.Base(dir), dir); err != nil {
		return err
	}
	gone := filepath.Join(filepath.Dir(dir), goneMark+filepath.Base(dir)+"-"+strconv.FormatInt(int64(driver.Now()), 36))
	if err := os.Rename(dir, gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return step.Errorf(step.KindInternal, "the sandbox's folder cannot be removed: %w", err)
	}
	return rmtree.Remove(gone)
}

// killRemains kills the supervisor, if it still lives, and PID 1, if it
// outlived it, and waits for both to be gone. Neither is taken for another
// process that got its pid: the supervisor holds a lock for as long as it
// lives, and PID 1 is known by the moment that it was started.
func killRemains(dir string, life supervisor.Life) error {
	if life.Alive && life.Complete {
		if err := pidfd.End(int(life.State.SupervisorPID), dieTime, func() (bool, error) {
			again, err := supervisor.Look(dir)
			return err == nil && again.Alive, nil
		}); err != nil {
			return err
		}
	}
	if life.Complete {
		return pidfd.End(int(life.State.InitPID), dieTime, func() (bool, error) { return startOf(int(life.State.InitPID)) == life.State.InitStart, nil })
	}
	return waitUnlocked(dir)
}

// waitUnlocked waits for a supervisor that never got its sandbox ready: it
// ends by itself.
func waitUnlocked(dir string) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		life, err := supervisor.Look(dir)
		if err != nil {
			return step.Errorf(step.KindInternal, "%w", err)
		}
		if life.Complete {
			return killRemains(dir, life)
		}
		if !life.Alive {
			return nil
		}
		if time.Now().After(deadline) {
			return step.Errorf(step.KindUnavailable, "the sandbox's set-up does not end")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// startOf is field 22 of /proc/<pid>/stat, 0 when there is no such process.
func startOf(pid int) uint64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0
	}
	n, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
