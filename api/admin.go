package api

import (
	"context"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/httpapi"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/queue"
)

// Migrate brings the schema up to date as its owner and returns the names of
// the migrations that it applied.
func Migrate(ctx context.Context, ownerURL string) ([]string, error) {
	return pg.Migrate(ctx, ownerURL)
}

// NewKey is a key to make.
type NewKey struct {
	Tenant string // made if it is not there
	Name   string
	Role   string // user or worker
}

// CreateKey makes a key as the schema's owner. The text it returns is not kept
// anywhere.
func CreateKey(ctx context.Context, ownerURL string, k NewKey) (text string, err error) {
	key, err := auth.NewKey(auth.Role(k.Role))
	if err != nil {
		return "", err
	}
	id := queue.NewID("key")
	err = pg.Owner(ctx, ownerURL, func(q *pgdb.Queries) error {
		if err := q.CreateTenant(ctx, k.Tenant); err != nil {
			return err
		}
		if err := q.CreateKey(ctx, pgdb.CreateKeyParams{ID: id, TenantID: k.Tenant, Name: k.Name, Role: k.Role, Hash: key.Hash}); err != nil {
			return err
		}
		return q.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: k.Tenant, Principal: "owner", Action: "key.create", Target: id, Outcome: "allowed"})
	})
	return key.Text, err
}

// OpenAPI is the API's document, as YAML.
func OpenAPI() ([]byte, error) { return httpapi.OpenAPI() }
