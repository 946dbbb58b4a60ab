// Package alert tells operators what they must know: it has the database
// evaluate the rules, and sends what follows from them to Slack and webhooks.
//
// An episode of a rule is told once to each receiver, and once that it is over.
// A message keeps its id at each try, so that a receiver can tell a repeat; a
// try that was taken but whose answer was lost is repeated.
package alert

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/secret"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	// Every is how often Tick is to be called.
	Every = 15 * time.Second
	// DeliverEvery is how often Deliver is.
	DeliverEvery = time.Second

	batch    = 8                // messages that one call takes
	lease    = 60 * time.Second // longer than a try can take
	keep     = 90 * 24 * time.Hour
	maxSaid  = 200
	lastWait = -1 // seconds: there is no other try
)

// Service is safe for concurrent use; any number of replicas may call it.
type Service struct {
	DB     *pg.DB
	Client *Client
	Keys   *secret.Keys // with which receivers are sealed; nil = none can be opened
	Log    *slog.Logger
}

// Tick evaluates all rules, unless another caller does at this moment.
func (s *Service) Tick(ctx context.Context) error {
	return s.DB.System(ctx, func(db *pgdb.Queries) error {
		if _, err := db.AlertTick(ctx); err != nil {
			return err
		}
		if err := db.EndRuleless(ctx); err != nil {
			return err
		}
		return db.DropAlerts(ctx, keep.Seconds())
	})
}

// Deliver sends messages that are due until there are none.
func (s *Service) Deliver(ctx context.Context) error {
	for {
		var due []pgdb.TakeDeliveriesRow
		err := s.DB.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
			due, err = db.TakeDeliveries(ctx, lease.Seconds(), batch)
			return err
		})
		if err != nil || len(due) == 0 {
			return err
		}
		var group errgroup.Group
		for _, d := range due {
			group.Go(func() error { return s.send(ctx, d) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
}

// send makes one try. What the receiver does is noted and no error.
func (s *Service) send(ctx context.Context, d pgdb.TakeDeliveriesRow) error {
	m := Message{ID: d.ID, Kind: d.Kind, Tenant: d.TenantID, At: d.CreatedAt}
	if d.AlertID != "" {
		err := s.DB.SystemQuery(ctx, func(db *pgdb.Queries) error {
			a, err := db.GetAlert(ctx, d.AlertID)
			m.Alert = wire.Alert(a)
			return err
		})
		if errors.Is(err, pg.ErrNoRow) {
			return s.DB.System(ctx, func(db *pgdb.Queries) error {
				return db.DeliveryFailed(ctx, pgdb.DeliveryFailedParams{ID: d.ID, Said: "its episode is not kept any more", WaitSeconds: lastWait})
			})
		}
		if err != nil {
			return err
		}
	}
	var out outcome
	if r, err := s.receiver(d); err != nil {
		out.said = cut("its url is sealed: "+err.Error(), maxSaid)
	} else {
		out = s.Client.post(ctx, r, m)
	}
	return s.DB.System(context.WithoutCancel(ctx), func(db *pgdb.Queries) error {
		switch {
		case out.taken:
			return db.DeliveryDone(ctx, d.ID)
		case out.gone:
			if err := db.ReceiverGone(ctx, d.TenantID, d.Receiver); err != nil {
				return err
			}
			return db.DropReceiverDeliveries(ctx, d.TenantID, d.Receiver)
		}
		wait := nextTry(int(d.Tries), out.wait)
		if wait < 0 {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "an alert was not delivered", slog.String("tenant", d.TenantID), slog.String("receiver", d.Receiver),
				slog.String("message", d.ID), slog.String("said", out.said))
		}
		return db.DeliveryFailed(ctx, pgdb.DeliveryFailedParams{ID: d.ID, Said: out.said, WaitSeconds: wait})
	})
}

// receiver opens a receiver for one try. One that was set before receivers were
// sealed lies in clear.
func (s *Service) receiver(d pgdb.TakeDeliveriesRow) (Receiver, error) {
	if len(d.Sealed) == 0 {
		return Receiver{Kind: d.ReceiverKind, URL: d.Url, Secret: d.Secret}, nil
	}
	was, err := s.Keys.OpenReceiver(d.TenantID, d.Receiver, d.Sealed)
	if time.Now().After(was.Until) {
		was.Before = ""
	}
	return Receiver{Kind: d.ReceiverKind, URL: was.URL, Secret: was.Secret, Before: was.Before}, err
}

// nextTry is how many seconds after the nth try the next one is: soon at first,
// for about three days in all. A receiver's own wish is honoured within a day.
func nextTry(n int, wish time.Duration) float64 {
	waits := [...]time.Duration{5 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}
	if n < 1 || n > len(waits) {
		return lastWait
	}
	return max(waits[n-1], min(wish, mostWish)).Seconds()
}
