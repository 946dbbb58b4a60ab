package pluginhost

import (
	"context"
	"fmt"
	"time"
)

// upgrade is a running process's look-out for a new file of its plugin. At
// most one new process is on its way at a time. Its methods are for the
// goroutine that watches the process.
type upgrade struct {
	slot   *slot
	from   *process
	seen   filesID // at the last look: files that change may still be written
	tried  filesID // those that a process was last started from
	result chan started
	under  bool // a result is to come
	failed bool // the last one was an error
}

// started is a new process, if there is one, or why not.
type started struct {
	p   *process
	err error
}

// look starts a process of the plugin's file if that is a new one, and has not
// been changing; at once if now, and then even a file that failed before.
func (u *upgrade) look(ctx context.Context, now bool) {
	files := filesOf(u.slot.cfg, u.slot.name)
	still := files == u.seen
	u.seen = files
	if u.failed && !u.under && files.plugin == u.from.files.plugin { // it was put back
		u.tried, u.failed = files, false
		u.slot.setNote(u.from, "")
	}
	switch {
	case u.under || files.plugin == u.from.files.plugin || files.plugin == (fileID{}):
		return
	case !now && (!still || files == u.tried):
		return
	}
	u.tried, u.under = files, true
	go func() {
		p, err := u.slot.start(ctx, u.from)
		u.result <- started{p, err}
	}()
}

// settle gives the new process, with the calls let through to it, or nil when
// the old one is to stay.
func (u *upgrade) settle(ctx context.Context, r started) *process {
	u.under = false
	s := u.slot
	if r.err == nil && r.p != nil {
		r.err = s.admit(ctx, r.p)
	}
	switch {
	case r.err == nil && r.p == nil:
		u.failed = false
		s.log.Info("the plugin's new file holds what the old one did; its process stays", "pid", u.from.child.PID())
		s.setNote(u.from, "")
		return nil
	case r.err == nil:
		s.log.Info("the plugin was replaced", "pid", u.from.child.PID(), "by", r.p.child.PID())
		return r.p
	case ctx.Err() != nil:
		return nil
	}
	u.failed = true
	s.announce(u.from)
	s.blame(r.err, "the new plugin does not start")
	s.log.Error("the plugin's new file is not used; the old process stays", "pid", u.from.child.PID(), "err", r.err)
	s.setNote(u.from, fmt.Sprintf("its new file is not used: %v", r.err))
	return nil
}

// rescue is for the end of the old process: if a new one is on its way, that is
// waited for.
func (u *upgrade) rescue(ctx context.Context, why error) (*process, error) {
	if u.under {
		u.slot.downIf(u.from, "it is being replaced")
		if next := u.settle(ctx, <-u.result); next != nil {
			u.slot.cfg.Observer.PluginDied(u.slot.name)
			return next, nil
		}
	}
	return nil, why
}

// abandon stops a process that comes too late. The context of look has ended.
func (u *upgrade) abandon() {
	if !u.under {
		return
	}
	if r := <-u.result; r.p != nil {
		r.p.stop()
	}
}

// retire gives an old process a moment for the calls that are under way, and
// ends it.
func (s *slot) retire(p *process) {
	s.old.Go(func() {
		p.drain(s.cfg.Timeouts.Drain)
		p.stop()
		s.log.Info("plugin retired", "pid", p.child.PID(), "after", time.Since(p.started).Round(time.Second))
	})
}
