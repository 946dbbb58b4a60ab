package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// mostMends is how often what the API misses is sent again.
const mostMends = 3

// errRefused is why an attempt's context ends when the API refuses its journal.
var errRefused = errors.New("the API refuses the journal")

// spooled is where the bytes of an artifact stay until the API has the verdict.
func (a *attempt) spooled(sha256 string) string {
	return filepath.Join(a.w.cfg.JournalDir, a.id, sha256+".artifact")
}

// mend sends again what the API misses of a record, or gives the record up.
// Until it is done nothing of the attempt is shipped. Only the shipper calls it.
func (a *attempt) mend(ctx context.Context, r wire.JournalRefusal) {
	if len(r.Missing) == 0 || a.mended == mostMends {
		a.refuse(r)
		return
	}
	a.mended++
	a.log.Warn("the API misses artifacts; they are sent again", "n", r.N, "sha256", r.Missing, "time", a.mended)
	a.mu.Lock()
	a.mending = true
	a.mu.Unlock()
	go func() {
		inner, stop := context.WithCancel(ctx)
		defer stop()
		go func() { // what the API has closed is not sent
			select {
			case <-a.closed:
				stop()
			case <-inner.Done():
			}
		}()
		err := a.resend(inner, r)
		if ctx.Err() != nil {
			return // the next process begins anew
		}
		if err != nil {
			r.Message += ": " + err.Error()
			a.refuse(r)
		}
		a.mu.Lock()
		a.mending = false
		a.mu.Unlock()
		poke(a.w.dirty)
	}()
}

// resend uploads artifacts of the verdict from where they were kept.
func (a *attempt) resend(ctx context.Context, r wire.JournalRefusal) error {
	records, err := a.journal.Read(r.N, 0)
	if err != nil {
		return err
	}
	if len(records) == 0 || records[0].Verdict == nil {
		return step.Errorf(step.KindInternal, "record %d is not the verdict", r.N)
	}
	for _, art := range records[0].Verdict.Artifacts {
		if !slices.Contains(r.Missing, art.SHA256) {
			continue
		}
		if err := a.resendOne(ctx, art); err != nil {
			return fmt.Errorf("cannot be sent again: %w", err)
		}
	}
	return nil
}

func (a *attempt) resendOne(ctx context.Context, art step.Artifact) (err error) {
	f, err := os.Open(a.spooled(art.SHA256))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return a.send(ctx, art.Name, art.SHA256, art.Size, f)
}

// refuse gives up a record that the API does not take: what runs is ended, and
// then a verdict is told in the record's place. One that is refused as well
// leaves the attempt to the end of its lease.
func (a *attempt) refuse(r wire.JournalRefusal) {
	a.mu.Lock()
	again := a.refusal != nil
	if !again {
		a.refusal = &r
		close(a.refused)
	}
	a.mu.Unlock()
	a.log.Error("the API refuses a record", "n", r.N, "kind", r.Kind, "reason", r.Message, "again", again)
	if again {
		a.fence()
		return
	}
	poke(a.w.dirty) // nothing may be left of it whose end would do so
}

// holdsBack reports whether nothing of the attempt is to be shipped now. Only the
// shipper calls it.
func (a *attempt) holdsBack() bool {
	select {
	case <-a.acked:
		return true
	default:
	}
	a.mu.Lock()
	refused, mending := a.refusal != nil, a.mending
	a.mu.Unlock()
	switch {
	case mending:
		return true
	case !refused:
		return time.Now().Before(a.later)
	}
	select {
	case <-a.cleaned:
		return false
	default:
		return true
	}
}

// tell is what the API is told next: the journal's records, and in the place of
// one that it refuses a verdict, the last. rest tells that there is more.
func (a *attempt) tell(limit int) (records []wire.Record, rest bool, err error) {
	records, err = a.journal.Read(a.next, limit)
	if err != nil {
		return nil, false, err
	}
	a.mu.Lock()
	r := a.refusal
	a.mu.Unlock()
	if r == nil {
		return records, records[len(records)-1].N < a.journal.Position().Last, nil
	}
	for i, rec := range records {
		if rec.N == r.N {
			return append(records[:i], instead(rec, *r)), false, nil
		}
	}
	return records, true, nil
}

// instead is the verdict in the place of a refused record.
func instead(rec wire.Record, r wire.JournalRefusal) wire.Record {
	v := failure(step.CauseDriverError, fmt.Sprintf("the API refused record %d of the attempt's journal: %s", r.N, r.Message))
	if r.Kind.Valid() {
		v.ErrorKind = r.Kind
	}
	if rec.Verdict != nil {
		v.Usage, v.Output = rec.Verdict.Verdict.Usage, rec.Verdict.Verdict.Output
	}
	return wire.Record{N: r.N, Type: wire.RecordVerdict, At: time.Now().UTC(), Verdict: &wire.VerdictRecord{Verdict: v}}
}
