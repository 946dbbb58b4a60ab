package pg_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// A claim and the reaper that gives a lost worker's runs away know of each other,
// whichever comes first: no step begins on a worker whose run another may take.
func TestClaimOfALostWorker(t *testing.T) {
	t.Parallel()
	type race struct {
		admin          *pgx.Conn
		worker, reaper pgx.Tx
	}
	begin := func(t *testing.T) *race {
		t.Helper()
		db := server.Database(t)
		r := &race{admin: connect(t, db.Admin)}
		fill(t, r.admin, "alpha")
		exec(t, r.admin, "UPDATE nofx.attempt SET status = 'lost', ended_at = now(), verdict = '{}'")
		exec(t, r.admin, "UPDATE nofx.worker SET last_seen = now() - interval '1 hour'")
		exec(t, r.admin, "UPDATE nofx.run SET status = 'running', pin = 'w-alpha'")
		exec(t, r.admin, "UPDATE nofx.step SET pin = 'w-alpha', region = 'here', attempt = 1, epoch = 1")
		for _, tx := range []*pgx.Tx{&r.worker, &r.reaper} {
			var err error
			if *tx, err = connect(t, db.System).Begin(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	// claim is what a claim does in its transaction.
	claim := func(tx pgx.Tx) (status string, leases int, err error) {
		q := pgdb.New(tx)
		row, err := q.ClaimingWorker(t.Context(), pgdb.ClaimingWorkerParams{ID: "w-alpha", Incarnation: "i", KeyID: "key-alpha"})
		if err != nil || row.Status == "lost" {
			return row.Status, 0, err
		}
		rows, err := q.Claim(t.Context(), pgdb.ClaimParams{AttemptIds: []string{"att-1"}, WorkerID: "w-alpha", ClaimID: "claim-1", LeaseSeconds: 30,
			Drivers: []string{"local"}, Regions: []string{"here"}, Region: "here", Reach: 2, Most: 1})
		return row.Status, len(rows), err
	}
	commit := func(t *testing.T, tx pgx.Tx) {
		t.Helper()
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// waits lets do wait for what another transaction holds.
	waits := func(t *testing.T, r *race, tx pgx.Tx, do func() error) chan error {
		t.Helper()
		done := make(chan error, 1)
		pid := tx.Conn().PgConn().PID()
		go func() { done <- do() }()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(30 * time.Second); ; <-tick.C {
			var locked bool
			if err := r.admin.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_locks WHERE pid = $1 AND NOT granted", int64(pid)).Scan(&locked); err != nil {
				t.Fatal(err)
			}
			switch {
			case locked:
				return done
			case len(done) > 0:
				t.Fatalf("did not wait: %v", <-done)
			case time.Now().After(end):
				t.Fatal("neither waits nor ends")
			}
		}
	}
	runs := func(t *testing.T, r *race) []string {
		t.Helper()
		return column(t, r.admin, "SELECT id FROM nofx.run")
	}
	pins := func(t *testing.T, r *race, want string) {
		t.Helper()
		if got := column(t, r.admin, "SELECT pin FROM nofx.run"); got[0] != want {
			t.Errorf("the run is pinned to %q, want %q", got[0], want)
		}
	}

	t.Run("the claim first", func(t *testing.T) {
		t.Parallel()
		r := begin(t)
		if status, n, err := claim(r.worker); err != nil || n != 1 {
			t.Fatalf("%s %d %v", status, n, err)
		}
		var freed []pgdb.UnpinRunsRow
		done := waits(t, r, r.reaper, func() error {
			q := pgdb.New(r.reaper)
			if _, err := q.LoseWorkers(t.Context(), 60); err != nil {
				return err
			}
			if err := q.LockPins(t.Context(), runs(t, r)); err != nil {
				return err
			}
			var err error
			freed, err = q.UnpinRuns(t.Context(), runs(t, r))
			return err
		})
		commit(t, r.worker)
		if err := <-done; err != nil || len(freed) > 0 {
			t.Errorf("freed %v, %v", freed, err)
		}
		commit(t, r.reaper)
		pins(t, r, "w-alpha")
	})
	t.Run("the reaper first", func(t *testing.T) {
		t.Parallel()
		r := begin(t)
		q := pgdb.New(r.reaper)
		lost, err := q.LoseWorkers(t.Context(), 60)
		if err != nil || len(lost) != 1 {
			t.Fatal(lost, err)
		}
		var status string
		var n int
		done := waits(t, r, r.worker, func() (err error) {
			status, n, err = claim(r.worker)
			return err
		})
		if freed, err := q.UnpinRuns(t.Context(), runs(t, r)); err != nil || len(freed) != 1 {
			t.Errorf("freed %v, %v", freed, err)
		}
		commit(t, r.reaper)
		if err := <-done; err != nil || status != "lost" || n != 0 {
			t.Errorf("a worker that is %s claimed %d: %v", status, n, err)
		}
		pins(t, r, "")
	})
	t.Run("lost before, and back meanwhile", func(t *testing.T) {
		t.Parallel()
		r := begin(t)
		exec(t, r.admin, "UPDATE nofx.worker SET status = 'lost'")
		q := pgdb.New(r.reaper)
		if err := q.LockPins(t.Context(), runs(t, r)); err != nil {
			t.Fatal(err)
		}
		var n int
		done := waits(t, r, r.worker, func() (err error) {
			if _, err = pgdb.New(r.worker).RegisterWorker(t.Context(), pgdb.RegisterWorkerParams{ID: "x", TenantID: "alpha", KeyID: "key-alpha", Name: "n",
				Incarnation: "i", Region: "r", Version: "v", Slots: 1, Drivers: []byte("[]")}); err == nil {
				_, n, err = claim(r.worker)
			}
			return err
		})
		if freed, err := q.UnpinRuns(t.Context(), runs(t, r)); err != nil || len(freed) != 1 {
			t.Errorf("freed %v, %v", freed, err)
		}
		commit(t, r.reaper)
		if err := <-done; err != nil || n != 1 { // the run is anybody's by now, and so this worker's, too
			t.Errorf("claimed %d: %v", n, err)
		}
		commit(t, r.worker)
		pins(t, r, "w-alpha")
	})
}
