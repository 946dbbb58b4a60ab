package queue

import (
	"context"
	"errors"
	"log/slog"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Journal stores records and applies what they say. What can never be stored
// comes back in Refused, and what cannot be now is in no list, if the worker knows
// of that; else it has the whole request refused.
func (q *Queue) Journal(ctx context.Context, who auth.Principal, in wire.JournalRequest) (wire.JournalAnswer, error) {
	answer, err := q.journal(ctx, who, in)
	if err == nil || !in.Refusals || !hopeless(err) && !step.Is(err, step.KindInternal) || len(in.Batches) == 0 || len(in.Batches) == 1 && len(in.Batches[0].Records) == 0 {
		return answer, err
	}
	return q.apart(ctx, who, in, err)
}

// hopeless reports whether the same request would be refused again.
func hopeless(err error) bool {
	return step.Is(err, step.KindInvalid) || step.Is(err, step.KindTooLarge) || pg.Unfit(err)
}

// apart takes a request that failed by halves, down to the record at fault, so
// that one attempt's records hold up neither another's nor those before them. It
// is an error if none of it could be stored or refused.
func (q *Queue) apart(ctx context.Context, who auth.Principal, in wire.JournalRequest, why error) (wire.JournalAnswer, error) {
	answer := wire.JournalAnswer{Acks: []wire.JournalAck{}, Discard: []string{}}
	whole, first := in.Batches, in.Batches[0]
	var halves [2][]wire.JournalBatch
	switch n := len(whole) / 2; {
	case n > 0:
		halves = [2][]wire.JournalBatch{whole[:n], whole[n:]}
	case len(first.Records) > 1:
		n = len(first.Records) / 2
		halves = [2][]wire.JournalBatch{{{Fence: first.Fence, Records: first.Records[:n]}}, {{Fence: first.Fence, Records: first.Records[n:]}}}
	case !hopeless(why):
		q.log.LogAttrs(ctx, slog.LevelError, "record not stored", slog.String("attempt", first.AttemptID), slog.Int64("n", first.Records[0].N), slog.Any("err", pg.Cause(why)))
		return answer, why
	default:
		r := recordRefusal(first, why)
		q.log.LogAttrs(ctx, slog.LevelWarn, "record refused", slog.String("attempt", r.AttemptID), slog.Int64("n", r.N), slog.Any("err", pg.Cause(why)))
		answer.Refused = append(answer.Refused, r)
		return answer, nil
	}
	var failed error
	some := false
	for _, half := range halves {
		in.Batches = half
		part, err := q.Journal(ctx, who, in)
		switch {
		case step.Is(err, step.KindInternal):
			failed = err
		case err != nil:
			return wire.JournalAnswer{}, err
		default:
			some = true
		}
		answer.Acks = append(answer.Acks, part.Acks...)
		answer.Discard = append(answer.Discard, part.Discard...)
		answer.Refused = append(answer.Refused, part.Refused...)
		if len(whole) == 1 && (err != nil || len(part.Refused)+len(part.Discard) > 0) {
			break // what follows cannot be taken either
		}
	}
	if !some {
		return wire.JournalAnswer{}, failed
	}
	if n := len(answer.Acks); len(whole) == 1 && n > 1 {
		answer.Acks = answer.Acks[n-1:]
	}
	return answer, nil
}

func recordRefusal(b wire.JournalBatch, err error) wire.JournalRefusal {
	r := wire.JournalRefusal{AttemptID: b.AttemptID, N: b.Records[0].N, Kind: step.KindOf(err), Message: err.Error()}
	if r.Kind == step.KindInternal {
		r.Kind, r.Message = step.KindInvalid, "the database does not take what it holds"
	}
	if gone := (*missingArtifactsError)(nil); errors.As(err, &gone) {
		r.Missing = gone.sums
	}
	return r
}

// missingArtifactsError are those of a verdict whose bytes are not here.
type missingArtifactsError struct {
	first error
	sums  []string
}

func (m *missingArtifactsError) add(attempt string, f step.Artifact) {
	if m.first == nil {
		m.first = invalid("verdict.artifacts", "%s of attempt %s was not uploaded with %d bytes", f.Name, attempt, f.Size)
	}
	m.sums = append(m.sums, f.SHA256)
}

func (m *missingArtifactsError) err() error {
	if m.first == nil {
		return nil
	}
	return m
}

func (m *missingArtifactsError) Error() string { return m.first.Error() }

func (m *missingArtifactsError) Unwrap() error { return m.first }
