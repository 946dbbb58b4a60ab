package chaos

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/fleet"
	"github.com/nofx-run/nofx/test/invariant"
)

const (
	// mendTime is for every process to serve again: a plugin that was hit often
	// is started again after half a minute.
	mendTime = 90 * time.Second
	// endBound is how long what was accepted may take to end from then on: a
	// lease in which nothing expires and one that has to, then up to four steps
	// one after the other with all their tries, and what waits for a slot.
	endBound = 2*lease + 110*time.Second
	// sweepBound is for what a crash left: younger than half a minute it may be
	// something that is being made.
	sweepBound = 75 * time.Second
)

// mend makes every part of the fleet work again.
func mend(ctx context.Context, f *fleet.Fleet, rec *record) error {
	ctx, cancel := context.WithTimeout(ctx, mendTime)
	defer cancel()
	var errs []error
	processes := []*fleet.Process{f.Postgres.Process}
	var links []*fleet.Link
	for _, a := range f.APIs {
		processes, links = append(processes, a.Process), append(links, a.DB, a.Client)
	}
	for _, d := range f.Daemons {
		processes, links = append(processes, d.Process), append(links, d.API)
	}
	for _, l := range links {
		errs = append(errs, l.Heal())
	}
	for _, p := range processes {
		errs = append(errs, p.Signal(syscall.SIGCONT))
		p.Up()
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, p := range processes {
		if err := p.Ready(ctx); err != nil {
			return err
		}
	}
	// A breaker that the faults have opened waits for longer than we do.
	c, err := f.Direct(0, tenants[0])
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.SetBreakers(ctx, wire.SetBreaker{Action: wire.BreakerReset, Tool: "bash", Reason: "the faults are over"})
	rec.note("everything is mended: %v", err)
	return err
}

// end waits until no run is open, also of those whose clients never heard that
// they were accepted, and every host has said that it holds nothing.
func end(ctx context.Context, f *fleet.Fleet, by time.Time) error {
	conn, err := pgx.Connect(ctx, f.Postgres.Admin())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	by = latest(by, time.Now().Add(3*heartbeat))
	for {
		var open, held int
		err := conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM nofx.run WHERE ended_at IS NULL),
			(SELECT coalesce(sum(held), 0) FROM nofx.worker)`).Scan(&open, &held)
		switch {
		case err != nil:
			return err
		case open == 0 && held == 0:
			return nil
		case time.Now().After(by):
			return fmt.Errorf("%d runs are open and %d leases held %v after everything was mended", open, held, endBound)
		case !pause(ctx, pollPause):
			return ctx.Err()
		}
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sweep has each host sweep until nothing is left of steps, or the bound is
// reached, and notes what is there then.
func sweep(ctx context.Context, f *fleet.Fleet, rec *record) {
	ctx, cancel := context.WithTimeout(ctx, sweepBound)
	defer cancel()
	for _, d := range f.Daemons {
		left := d.Resources()
		for len(left) > 0 && ctx.Err() == nil {
			report, err := d.Sweep(ctx)
			if err != nil || len(report.Items) > 0 || len(report.Errors) > 0 {
				rec.note("sweep of %s: %+v, %v", d.Name, report, err)
			}
			pause(ctx, time.Second)
			left = d.Resources()
		}
		look := invariant.Look{Host: d.Name}
		for _, r := range left {
			look.Left = append(look.Left, r.Kind+" "+r.Name)
		}
		rec.with(func(h *invariant.History) { h.Looks = append(h.Looks, look) })
	}
}

// dial makes every tenant's clients.
func dial(f *fleet.Fleet) (map[string][]*client.Client, error) {
	all := map[string][]*client.Client{}
	for _, tenant := range tenants {
		for i := range f.APIs {
			c, err := f.Dial(i, tenant)
			if err != nil {
				return all, err
			}
			all[tenant] = append(all[tenant], c)
		}
	}
	return all, nil
}
