package pluginhost

import (
	"context"
	"fmt"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
)

// healthPause is the least between two health messages that are taken.
const healthPause = 50 * time.Millisecond

// watch follows a process's health until it ends, hangs or ctx ends, or until
// another process has taken its place: that one is given.
func (s *slot) watch(ctx context.Context, p *process) (*process, error) {
	u := &upgrade{slot: s, from: p, seen: p.files, tried: p.files, result: make(chan started)}
	defer u.abandon()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beats := make(chan driver.Health)
	ended := make(chan error, 1)
	go func() {
		ended <- p.driver.Health(ctx, func(h driver.Health) error {
			select {
			case beats <- h:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case <-time.After(healthPause): // one that says more waits
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	silence := time.NewTimer(s.cfg.Timeouts.Health)
	defer silence.Stop()
	look := time.NewTicker(s.cfg.Timeouts.Look)
	defer look.Stop()
	for {
		select {
		case h := <-beats:
			silence.Reset(s.cfg.Timeouts.Health)
			s.setHealth(ctx, p, h)
		case <-look.C:
			u.look(ctx, false)
		case <-s.wake:
			u.look(ctx, true)
		case r := <-u.result:
			if next := u.settle(ctx, r); next != nil {
				return next, nil
			}
		case <-p.child.Done():
			return u.rescue(ctx, fmt.Errorf("its process ended: %s", p.child.Ended()))
		case err := <-ended:
			select {
			case <-p.child.Done(): // the stream broke because of it
				return u.rescue(ctx, fmt.Errorf("its process ended: %s", p.child.Ended()))
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Second):
			}
			return u.rescue(ctx, fmt.Errorf("its health stream ended: %w", err))
		case <-silence.C:
			s.log.Error("the plugin hangs; killing it", "pid", p.child.PID(), "silent_for", s.cfg.Timeouts.Health)
			p.child.End()
			return u.rescue(ctx, errHung)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
