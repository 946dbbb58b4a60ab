package alert

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	inFlight    = 64               // tries at once, each of another receiver
	mostFailing = 16               // of them, for receivers that did not take the last message
	lease       = 60 * time.Second // longer than a try can take
	noteTime    = 10 * time.Second // for the database, after a try
	maxSaid     = 200
	lastWait    = -1 // seconds: there is no other try
)

// Deliver sends messages that are due, and those that come to be due meanwhile,
// until there are none and no try is under way. Each is on its own: a receiver
// that does not answer is waited for, but nobody behind it. Where ctx has a
// deadline nothing is begun that could not be tried to its end. A call during
// another one does nothing.
func (s *Service) Deliver(ctx context.Context) error {
	if !s.delivering.TryLock() {
		return nil
	}
	defer s.delivering.Unlock()
	look := time.NewTicker(DeliverEvery)
	defer look.Stop()
	landed := make(chan bool, inFlight) // whether it was for one that was failing
	flying, failing := 0, 0
	var err error
	for first := true; ; first = false {
		if err == nil && flying < inFlight && (first || inTime(ctx)) {
			var due []pgdb.TakeDeliveriesRow
			err = s.DB.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
				due, err = db.TakeDeliveries(ctx, pgdb.TakeDeliveriesParams{LeaseSeconds: lease.Seconds(), Most: int32(inFlight - flying), Failing: int32(mostFailing - failing)})
				return err
			})
			for _, d := range due {
				flying++
				if d.Failing {
					failing++
				}
				go func() {
					defer func() { landed <- d.Failing }()
					s.send(ctx, d)
				}()
			}
		}
		if flying == 0 {
			return err
		}
		select {
		case was := <-landed:
			flying--
			if was {
				failing--
			}
		case <-look.C:
		}
	}
}

// inTime reports whether a try that begins now can be made to its end.
func inTime(ctx context.Context) bool {
	end, bounded := ctx.Deadline()
	return ctx.Err() == nil && (!bounded || time.Until(end) >= tryTimeout)
}

// send makes one try and notes what came of it. When that cannot be noted, the
// message is tried again once its lease is over.
func (s *Service) send(ctx context.Context, d pgdb.TakeDeliveriesRow) {
	out, wait, err := s.try(ctx, d)
	if err == nil {
		err = s.note(ctx, d, out, wait)
	}
	if err != nil {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "what came of an alert's message is not known", slog.String("tenant", d.TenantID),
			slog.String("receiver", d.Receiver), slog.String("message", d.ID), slog.Any("err", pg.Cause(err)))
	}
}

// try gives what came of it and how many seconds to wait for the next.
func (s *Service) try(ctx context.Context, d pgdb.TakeDeliveriesRow) (out outcome, wait float64, err error) {
	m := Message{ID: d.ID, Kind: d.Kind, Tenant: d.TenantID, At: d.CreatedAt}
	if d.AlertID != "" {
		err := s.DB.SystemQuery(ctx, func(db *pgdb.Queries) error {
			a, err := db.GetAlert(ctx, d.AlertID)
			m.Alert = wire.Alert(a)
			if errors.Is(err, pg.ErrNoRow) {
				wait = lastWait
				return nil
			}
			return err
		})
		if err != nil || wait == lastWait {
			return outcome{said: "its episode is not kept any more"}, lastWait, err
		}
	}
	if r, err := s.receiver(d); err != nil {
		out.said = cut("its url is sealed: "+err.Error(), maxSaid)
	} else {
		out = s.Client.post(ctx, r, m)
	}
	return out, nextTry(int(d.Tries), out.wait), nil
}

// note writes what came of a try. What the receiver does is no error.
func (s *Service) note(ctx context.Context, d pgdb.TakeDeliveriesRow, out outcome, wait float64) error {
	failing := !out.taken
	if failing && errors.Is(ctx.Err(), context.Canceled) {
		out.said, failing = "the API stopped before it answered", d.Failing
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTime)
	defer cancel()
	err := s.DB.System(ctx, func(db *pgdb.Queries) error {
		if err := db.FreeReceiver(ctx, pgdb.FreeReceiverParams{TenantID: d.TenantID, Name: d.Receiver, BusyUntil: d.BusyUntil, Failing: failing}); err != nil {
			return err
		}
		switch {
		case out.taken:
			return db.DeliveryDone(ctx, d.ID)
		case out.gone:
			if err := db.ReceiverGone(ctx, d.TenantID, d.Receiver); err != nil {
				return err
			}
			return db.DropReceiverDeliveries(ctx, d.TenantID, d.Receiver)
		}
		return db.DeliveryFailed(ctx, pgdb.DeliveryFailedParams{ID: d.ID, Tries: d.Tries, Said: out.said, WaitSeconds: wait})
	})
	if err == nil && wait < 0 && !out.taken && !out.gone {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "an alert was not delivered", slog.String("tenant", d.TenantID), slog.String("receiver", d.Receiver),
			slog.String("message", d.ID), slog.String("said", out.said))
	}
	return err
}
