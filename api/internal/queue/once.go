package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
)

// Once is how a request says that a repeat of it is no second one.
type Once struct {
	Route       string
	Key         string // "" = it does not
	Fingerprint []byte // of the request, to tell a repeat from a mistake
}

// keepKeys is how long a key is remembered.
const keepKeys = 24 * time.Hour

// once runs do in a transaction of the tenant's. A repeat with the same key
// gives the first answer again, without it, and replayed is true.
func once[T any](ctx context.Context, q *Queue, who auth.Principal, o Once, do func(*pgdb.Queries) (T, error)) (answer T, replayed bool, err error) {
	err = q.db.Tenant(ctx, who.TenantID, func(db *pgdb.Queries) error {
		replayed = false
		if o.Key != "" {
			found, body, err := findReplay(ctx, db, who.TenantID, o)
			if err != nil {
				return err
			}
			if found {
				replayed = true
				return json.Unmarshal(body, &answer)
			}
		}
		var err error
		if answer, err = do(db); err != nil || o.Key == "" {
			return err
		}
		return putReplay(ctx, db, who.TenantID, o, http.StatusOK, answer)
	})
	return answer, replayed, err
}

func findReplay(ctx context.Context, db *pgdb.Queries, tenant string, o Once) (found bool, body []byte, err error) {
	mine, err := db.TryIdempotency(ctx, tenant+"\n"+o.Route+"\n"+o.Key)
	if err != nil {
		return false, nil, err
	}
	if !mine {
		return false, nil, beingServed()
	}
	row, err := db.GetIdempotency(ctx, pgdb.GetIdempotencyParams{TenantID: tenant, Route: o.Route, Key: o.Key})
	switch {
	case none(err):
		return false, nil, db.DropIdempotency(ctx, pgdb.DropIdempotencyParams{TenantID: tenant, Route: o.Route, Key: o.Key})
	case err != nil:
		return false, nil, err
	case !bytes.Equal(row.Fingerprint, o.Fingerprint):
		return false, nil, &step.Error{Kind: step.KindInvalid, Message: "the idempotency key was used with another body",
			Fields: []step.FieldError{{Location: "header.x-idempotency-key", Message: "was used with another body", Value: o.Key}}}
	}
	return true, row.Body, nil
}

func beingServed() error {
	return &step.Error{Kind: step.KindConflict, Message: "a request with this idempotency key is being served", RetryAfter: time.Second}
}

func putReplay(ctx context.Context, db *pgdb.Queries, tenant string, o Once, status int32, answer any) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return db.PutIdempotency(ctx, pgdb.PutIdempotencyParams{TenantID: tenant, Route: o.Route, Key: o.Key, Fingerprint: o.Fingerprint,
		Status: status, Body: body, KeepSeconds: keepKeys.Seconds()})
}
