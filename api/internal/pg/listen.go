package pg

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
)

// Listener receives what replicas tell one another through NOTIFY.
type Listener struct {
	URL     string // as nofx_system; a direct or session-pooled connection
	Channel string
	// Notice gets each payload.
	Notice func(payload string)
	// Gap is called after each (re)connection: notices before it may be lost.
	Gap func()
	Log *slog.Logger
}

const (
	relisten = time.Second      // pause before another connection
	quiet    = 30 * time.Second // without a notice, is the connection still there?
)

// Run listens until ctx is done and connects again whenever the connection
// breaks. What it misses meanwhile the readers' own polls find.
func (l *Listener) Run(ctx context.Context) error {
	healthy := true
	for ctx.Err() == nil {
		err := l.listen(ctx, func() {
			if !healthy {
				l.Log.LogAttrs(ctx, slog.LevelInfo, "listening to the database again")
			}
			healthy = true
		})
		if err != nil && ctx.Err() == nil && healthy {
			healthy = false
			l.Log.LogAttrs(ctx, slog.LevelWarn, "lost the database's notices, polling meanwhile", slog.Any("err", err))
		}
		pause := time.NewTimer(relisten)
		select {
		case <-ctx.Done():
			pause.Stop()
		case <-pause.C:
		}
	}
	return nil
}

func (l *Listener) listen(ctx context.Context, ready func()) error {
	cfg, err := pgx.ParseConfig(l.URL)
	if err != nil {
		return err
	}
	cfg.ConnectTimeout = connectTimeout
	cfg.RuntimeParams["application_name"] = "nofx-listen"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		defer cancel()
		_ = conn.Close(ctx) // nothing of it matters any more
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{l.Channel}.Sanitize()); err != nil {
		return err
	}
	ready()
	l.Gap()
	for {
		waiting, cancel := context.WithTimeout(ctx, quiet)
		n, err := conn.WaitForNotification(waiting)
		timedOut := waiting.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil:
			l.Notice(n.Payload)
		case timedOut && !conn.IsClosed():
			if err := conn.Ping(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// Notify tells the other replicas, in a statement of its own.
func (db *DB) Notify(ctx context.Context, channel, payload string) error {
	conn, err := acquire(ctx, db.system)
	if err != nil {
		return translate(ctx, err)
	}
	defer conn.Release()
	_, err = conn.Exec(ctx, "SELECT pg_notify($1, $2)", channel, payload)
	return translate(ctx, err)
}
