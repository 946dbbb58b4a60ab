package container

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Between two sweeps; the first comes at once.
const sweepEvery = time.Minute

// orphanAge is how long a container may be without a folder: its removal may
// be under way.
const orphanAge = time.Minute

// beginSweeps starts the sweeps of a configuration. d.mu is held.
func (d *Driver) beginSweeps(s *setup) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	d.stop, d.swept = cancel, done
	var both sync.WaitGroup
	both.Go(func() { d.follow(ctx, s) })
	s.late.Go(func() {
		for !s.isTried() && ctx.Err() == nil { // an engine that came late
			if d.tryGVisor(ctx, s); s.isTried() {
				return
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	})
	both.Go(func() {
		for {
			if err := errors.Join(d.sweep(ctx, s, time.Now().Add(-orphanAge)), d.trimImages(ctx, s)); err != nil && ctx.Err() == nil {
				d.log.Warn("sweep", "err", err)
			}
			select {
			case <-time.After(sweepEvery + rand.N(sweepEvery/4)):
			case <-ctx.Done():
				return
			}
		}
	})
	go func() {
		both.Wait()
		close(done)
	}()
}

// endSweeps ends them and waits. d.mu is held.
func (d *Driver) endSweeps() {
	if d.stop == nil {
		return
	}
	d.stop()
	<-d.swept
	d.stop, d.swept = nil, nil
}

// sweep removes the containers of this state folder, made before that time,
// that have no sandbox any more, in whatever state they are.
func (d *Driver) sweep(ctx context.Context, s *setup, before time.Time) error {
	d.heard.keep(func(box string) bool {
		_, err := os.Lstat(filepath.Join(s.config.StateDir, box))
		return err == nil
	})
	all, err := s.engine.list(ctx, labelState, s.config.StateDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		if c.box == "" || !c.created.Before(before) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(s.config.StateDir, c.box)); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		d.log.Info("a container without a sandbox is removed", "container", c.id, "sandbox", c.box)
		gone, err := s.engine.remove(ctx, c.id)
		if gone {
			d.counts.add(&d.counts.swept)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
