package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/retention"
	"github.com/nofx-run/nofx/sdk/step"
)

// KeepFor is how long something of a tenant's is kept.
type KeepFor struct {
	Default bool          // as the API is configured
	For     time.Duration // otherwise; 0 = for ever, and artifacts as long as their run
}

// TenantRetention is how long a tenant's runs and artifacts are kept. What is
// nil stays as it is.
type TenantRetention struct {
	Tenant          string
	Runs, Artifacts *KeepFor
}

// SetTenantRetention changes it as the schema's owner.
func SetTenantRetention(ctx context.Context, ownerURL string, t TenantRetention) error {
	p := pgdb.SetTenantRetentionParams{TenantID: t.Tenant, SetRuns: t.Runs != nil, SetArtifacts: t.Artifacts != nil}
	said := map[string]any{}
	for _, k := range []struct {
		name, quota, none string
		keep              *KeepFor
		to                **int64
	}{
		{"runs", "max_run_retention_days", "for ever", t.Runs, &p.KeepRunsSeconds},
		{"artifacts", "max_artifact_retention_days", "as long as their runs", t.Artifacts, &p.KeepArtifactsSeconds},
	} {
		switch {
		case k.keep == nil:
			continue
		case k.keep.Default:
			said[k.quota] = "default"
			continue
		}
		if err := checkKeep(k.name, k.none, k.keep.For); err != nil {
			return err
		}
		n := int64(k.keep.For / time.Second)
		*k.to, said[k.quota] = &n, k.keep.For.Hours()/24
	}
	detail, err := json.Marshal(said)
	if err != nil {
		return err
	}
	return pg.Owner(ctx, ownerURL, func(q *pgdb.Queries) error {
		changed, err := q.SetTenantRetention(ctx, p)
		if err != nil {
			return err
		}
		if changed == 0 {
			return step.Errorf(step.KindNotFound, "there is no tenant %.80q", t.Tenant)
		}
		return q.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: t.Tenant, Principal: "owner", Action: "tenant.retention", Target: t.Tenant, Outcome: "allowed", Detail: detail})
	})
}

// checkKeep bounds how long something is kept; none says what 0 is.
func checkKeep(name, none string, d time.Duration) error {
	if d != 0 && (d < retention.Least || d > retention.Longest) {
		return fmt.Errorf("%s must be 0, %s, or 24h to %dh", name, none, int(retention.Longest.Hours()))
	}
	return nil
}

// PreviewRetention prints what is due to be removed, and removes nothing. The
// times for tenants that have none of their own come from the environment.
func PreviewRetention(ctx context.Context, systemURL string, out io.Writer) error {
	keep, err := env.ParseAs[retention.Keep]()
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := (Config{Retain: keep}).checkRetain(); err != nil {
		return err
	}
	db, err := pg.Open(ctx, pg.Config{TenantURL: systemURL, SystemURL: systemURL, MaxConns: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer db.Close()
	p, err := (&retention.Service{DB: db, Keep: keep}).Preview(ctx)
	if err != nil {
		return pg.Cause(err)
	}
	return p.Print(out)
}
