// Package ledger is the daemon's own memory of what it has begun, on disk
// before the act: which leases it holds, which sandboxes it made for them, and
// the claim that it is about to ask for. A lease has the command in clear, with what
// is sensitive of it, so the file is root's alone.
//
// Every write is on the disk when it returns. Writes that come while one is
// under way share the next transaction, so a busy daemon pays for few syncs.
package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Entry is one attempt that this host holds. Handle is nil until the driver
// has returned it: then a sandbox may exist that only the driver's List knows.
// Whether the attempt has ended is in its journal.
type Entry struct {
	Lease   wire.Lease     `json:"lease"`
	Handle  *driver.Handle `json:"handle,omitempty"`
	UIDBase uint32         `json:"uid_base,omitempty"`
	// Disk is why the step was told to end, when that was what its workspace
	// holds.
	Disk string `json:"disk,omitempty"`
}

// Run is a run whose workspace this host keeps.
type Run struct {
	ID       string `json:"id"`
	TenantID string `json:"tenant_id"`
	UID      uint32 `json:"uid"` // owner of the workspace's files
	// No is the lease's number of the workspace that is here.
	No int `json:"no,omitempty"`
	// Restoring says that it is not whole: it is being put together, or was when
	// the process died.
	Restoring bool `json:"restoring,omitempty"`
	// Boot is the host's start since which it is known to be whole: what was
	// written before another one may have been lost by that.
	Boot string `json:"boot,omitempty"`
}

var (
	attempts = []byte("attempts")
	runs     = []byte("runs")
	meta     = []byte("meta")
)

// Ledger is the open file. It is safe for concurrent use.
type Ledger struct {
	db    *bbolt.DB
	queue chan write
	done  chan struct{}
}

type write struct {
	apply func(*bbolt.Tx) error
	err   chan error
}

// Open opens the ledger at path and holds it alone: conflict when another
// daemon has it.
func Open(path string) (*Ledger, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || err.Error() == "timeout" {
			return nil, step.Errorf(step.KindConflict, "another daemon has the ledger %s", path)
		}
		return nil, fmt.Errorf("ledger %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{attempts, runs, meta} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ledger %s: %w", path, err), db.Close())
	}
	l := &Ledger{db: db, queue: make(chan write, 256), done: make(chan struct{})}
	go l.commit()
	return l, nil
}

// Close waits for the writes under way. No call may follow it.
func (l *Ledger) Close() error {
	close(l.queue)
	<-l.done
	return l.db.Close()
}

// commit puts all writes that are waiting into one transaction. A write that
// fails must not take the others with it, so after a failure each goes alone.
func (l *Ledger) commit() {
	defer close(l.done)
	for first := range l.queue {
		batch := []write{first}
		for more := true; more; {
			select {
			case w, ok := <-l.queue:
				if more = ok; ok {
					batch = append(batch, w)
				}
			default:
				more = false
			}
		}
		err := l.db.Update(func(tx *bbolt.Tx) error {
			for _, w := range batch {
				if err := w.apply(tx); err != nil {
					return err
				}
			}
			return nil
		})
		for _, w := range batch {
			if err != nil && len(batch) > 1 {
				w.err <- l.db.Update(w.apply)
				continue
			}
			w.err <- err
		}
	}
}

func (l *Ledger) update(apply func(*bbolt.Tx) error) error {
	w := write{apply: apply, err: make(chan error, 1)}
	l.queue <- w
	if err := <-w.err; err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

func put(bucket []byte, key string, v any) (func(*bbolt.Tx) error, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put([]byte(key), raw) }, nil
}

// claimName is the name that the id of the claim under way is kept by.
const claimName = "claim"

// Claim is the id of the claim that is under way or comes next, "" at first.
func (l *Ledger) Claim() (string, error) { return l.Get(claimName) }

// Claimed writes down what a claim has brought, and the id of the next claim,
// all or none.
func (l *Ledger) Claimed(nextClaim string, entries ...Entry) error {
	return l.put(entries, func(tx *bbolt.Tx) error {
		return tx.Bucket(meta).Put([]byte(claimName), []byte(nextClaim))
	})
}

// Put writes entries, all or none.
func (l *Ledger) Put(entries ...Entry) error { return l.put(entries) }

func (l *Ledger) put(entries []Entry, also ...func(*bbolt.Tx) error) error {
	applies := also
	for _, e := range entries {
		apply, err := put(attempts, e.Lease.AttemptID, e)
		if err != nil {
			return err
		}
		applies = append(applies, apply)
	}
	return l.update(func(tx *bbolt.Tx) error {
		for _, apply := range applies {
			if err := apply(tx); err != nil {
				return err
			}
		}
		return nil
	})
}

// Delete forgets attempts. Those that are not there are no error.
func (l *Ledger) Delete(attemptIDs ...string) error {
	return l.update(func(tx *bbolt.Tx) error {
		for _, id := range attemptIDs {
			if err := tx.Bucket(attempts).Delete([]byte(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Entries gives all attempts.
func (l *Ledger) Entries() ([]Entry, error) { return all[Entry](l.db, attempts) }

// PutRun remembers a run's workspace.
func (l *Ledger) PutRun(r Run) error {
	apply, err := put(runs, r.ID, r)
	if err != nil {
		return err
	}
	return l.update(apply)
}

// DeleteRun forgets a run's workspace.
func (l *Ledger) DeleteRun(id string) error {
	return l.update(func(tx *bbolt.Tx) error { return tx.Bucket(runs).Delete([]byte(id)) })
}

// Runs gives all runs whose workspaces are kept.
func (l *Ledger) Runs() ([]Run, error) { return all[Run](l.db, runs) }

// Set keeps a single value under a name, such as the claim's id.
func (l *Ledger) Set(name, value string) error {
	return l.update(func(tx *bbolt.Tx) error { return tx.Bucket(meta).Put([]byte(name), []byte(value)) })
}

// Get is the value that Set kept, "" when there is none.
func (l *Ledger) Get(name string) (string, error) {
	var v string
	err := l.db.View(func(tx *bbolt.Tx) error {
		v = string(tx.Bucket(meta).Get([]byte(name)))
		return nil
	})
	return v, err
}

func all[T any](db *bbolt.DB, bucket []byte) ([]T, error) {
	var out []T
	err := db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(k, raw []byte) error {
			var v T
			if err := json.Unmarshal(raw, &v); err != nil {
				return fmt.Errorf("ledger: %s %s: %w", bucket, k, err)
			}
			out = append(out, v)
			return nil
		})
	})
	return out, err
}
