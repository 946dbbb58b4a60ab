package container

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// Between two sweeps; the first comes at once.
const sweepEvery = time.Minute

// orphanAge is how long a container may be without a folder: its removal may
// be under way.
const orphanAge = time.Minute

// begin starts what a setup does beside the calls. It waits for gVisor to be
// tried until ctx ends; away is why the engine cannot be asked. d.configuring is
// held.
func (d *Driver) begin(ctx context.Context, s *setup, away error) {
	side, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	if s.config.GVisorRuntime == "" {
		d.ForgetGVisor()
		s.tried.Store(true)
	}
	s.side.Go(func() { d.follow(side, s) })
	s.side.Go(func() { d.sweeps(side, s) })
	first := make(chan struct{})
	s.side.Go(func() {
		d.tryGVisor(side, s)
		close(first)
		for !s.isTried() { // an engine that came late
			select {
			case <-time.After(time.Second):
				d.tryGVisor(side, s)
			case <-side.Done():
				return
			}
		}
	})
	if why := away; !s.isTried() {
		if why == nil {
			select {
			case <-first:
				return
			case <-ctx.Done():
				why = errors.New("whether it works is being tried")
			}
		}
		d.notYet(s, why)
	}
}

// sweeps sweeps now and then, until ctx ends.
func (d *Driver) sweeps(ctx context.Context, s *setup) {
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
}

// sweep removes the containers of this state folder, made before that time,
// that have no sandbox any more, in whatever state they are.
func (d *Driver) sweep(ctx context.Context, s *setup, before time.Time) error {
	d.heard.keep(func(box string) bool {
		_, err := os.Lstat(filepath.Join(s.config.StateDir, box))
		return err == nil
	})
	_, err := d.sweepAt(ctx, s, s.engine, before)
	return errors.Join(err, d.sweepOthers(ctx, s, before))
}

// sweepAt does it at one engine, and gives how many containers are left there.
func (d *Driver) sweepAt(ctx context.Context, s *setup, e *engine, before time.Time) (left int, _ error) {
	all, err := e.list(ctx, labelState, s.config.StateDir)
	if err != nil {
		return 0, err
	}
	left = len(all)
	var errs []error
	for _, c := range all {
		if c.box == "" || !c.created.Before(before) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(s.config.StateDir, c.box)); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		d.log.Info("a container without a sandbox is removed", "container", c.id, "sandbox", c.box)
		gone, err := e.remove(ctx, c.id)
		if gone {
			d.counts.add(&d.counts.swept)
		}
		if err == nil {
			left--
		}
		errs = append(errs, err)
	}
	return left, errors.Join(errs...)
}
