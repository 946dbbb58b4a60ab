// Package alert tells operators what they must know: it has the database
// evaluate the rules, and sends what follows from them to Slack and webhooks.
//
// An episode of a rule is told once to each receiver, and once that it is over.
// A message keeps its id at each try, so that a receiver can tell a repeat; a
// try that was taken but whose answer was lost is repeated. A receiver that
// hangs or fails delays no other.
package alert

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/secret"
)

const (
	// Every is how often Tick is to be called.
	Every = 15 * time.Second
	// DeliverEvery is how often Deliver is.
	DeliverEvery = time.Second

	keep = 90 * 24 * time.Hour
)

// Service is safe for concurrent use; any number of replicas may call it.
type Service struct {
	DB     *pg.DB
	Client *Client
	Keys   *secret.Keys // with which receivers are sealed; nil = none can be opened
	Log    *slog.Logger

	delivering sync.Mutex // by one call at a time
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
		if err := db.DropGoneDeliveries(ctx); err != nil {
			return err
		}
		if err := db.DropAuditTrouble(ctx, keep.Seconds()); err != nil {
			return err
		}
		return db.DropAlerts(ctx, keep.Seconds())
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
