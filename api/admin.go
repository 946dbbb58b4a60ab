package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/httpapi"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/queue"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
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
	Role   string // user, worker or operator
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

// TenantNetwork is what a tenant's steps may have of the network.
type TenantNetwork struct {
	Tenant  string
	Most    string   // none, allow or open
	Private []string // rules with prefixes: what may be called though it is not on the Internet
}

// SetTenantNetwork changes a tenant's policy as the schema's owner.
func SetTenantNetwork(ctx context.Context, ownerURL string, n TenantNetwork) error {
	switch step.Network(n.Most) {
	case step.NetworkNone, step.NetworkAllow, step.NetworkOpen:
	default:
		return fmt.Errorf("network %.40q: none, allow or open", n.Most)
	}
	if len(n.Private) > driver.MaxRules { // no driver would take them with a step
		return fmt.Errorf("%d exceptions are more than %d", len(n.Private), driver.MaxRules)
	}
	private := []string{}
	for _, text := range n.Private {
		r, err := step.ParseRule(text)
		if err != nil {
			return err
		}
		if r.Domain != "" {
			return fmt.Errorf("%.100q: an address or a prefix is needed here, since it is the address that is judged", text)
		}
		private = append(private, r.String())
	}
	detail, err := json.Marshal(map[string]any{"network": n.Most, "private": private})
	if err != nil {
		return err
	}
	return pg.Owner(ctx, ownerURL, func(q *pgdb.Queries) error {
		changed, err := q.SetTenantNetwork(ctx, pgdb.SetTenantNetworkParams{TenantID: n.Tenant, Network: n.Most, Private: private})
		if err != nil {
			return err
		}
		if changed == 0 {
			return step.Errorf(step.KindNotFound, "there is no tenant %.80q", n.Tenant)
		}
		return q.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: n.Tenant, Principal: "owner", Action: "tenant.network", Target: n.Tenant, Outcome: "allowed", Detail: detail})
	})
}

// SetTenantCeiling changes, as the schema's owner, the most that a tenant's
// steps may ask for.
func SetTenantCeiling(ctx context.Context, ownerURL, tenant string, c wire.TenantCeiling, clip bool) error {
	if err := c.CheckMost(); err != nil {
		return err
	}
	if c.TimeoutMS < 0 {
		return errors.New("timeout: it is negative; leave it out for no limit")
	}
	ceiling, err := json.Marshal(c)
	if err != nil {
		return err
	}
	detail, err := json.Marshal(map[string]any{"ceiling": c, "clip": clip})
	if err != nil {
		return err
	}
	return pg.Owner(ctx, ownerURL, func(q *pgdb.Queries) error {
		changed, err := q.SetTenantCeiling(ctx, pgdb.SetTenantCeilingParams{TenantID: tenant, Ceiling: ceiling, Clip: clip})
		if err != nil {
			return err
		}
		if changed == 0 {
			return step.Errorf(step.KindNotFound, "there is no tenant %.80q", tenant)
		}
		return q.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: tenant, Principal: "owner", Action: "tenant.limits", Target: tenant, Outcome: "allowed", Detail: detail})
	})
}

// SetTenantIsolation demands, as the schema's owner, an isolation level of all
// steps of a tenant; namespace, the weakest, demands nothing.
func SetTenantIsolation(ctx context.Context, ownerURL, tenant, level string) error {
	demand := level
	switch level {
	case driver.IsolationGVisor:
	case driver.IsolationNamespace:
		demand = ""
	default:
		return fmt.Errorf("isolation %.40q: %s or %s", level, driver.IsolationNamespace, driver.IsolationGVisor)
	}
	detail, err := json.Marshal(map[string]string{"isolation": level})
	if err != nil {
		return err
	}
	return pg.Owner(ctx, ownerURL, func(q *pgdb.Queries) error {
		changed, err := q.SetTenantIsolation(ctx, demand, tenant)
		if err != nil {
			return err
		}
		if changed == 0 {
			return step.Errorf(step.KindNotFound, "there is no tenant %.80q", tenant)
		}
		return q.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: tenant, Principal: "owner", Action: "tenant.isolation", Target: tenant, Outcome: "allowed", Detail: detail})
	})
}

// SetTenantResidency says, as the schema's owner, which regions a tenant's steps
// may run in, the first to be preferred; none = any.
func SetTenantResidency(ctx context.Context, ownerURL, tenant string, regions []string) error {
	if len(regions) > step.MaxRegions {
		return fmt.Errorf("%d regions are more than %d", len(regions), step.MaxRegions)
	}
	for i, r := range regions {
		switch {
		case !step.ValidRegion(r):
			return fmt.Errorf("region %.80q: 1 to 63 of a-z, 0-9 and -, and first no -", r)
		case slices.Contains(regions[:i], r):
			return fmt.Errorf("region %q is there twice", r)
		}
	}
	regions = append([]string{}, regions...)
	detail, err := json.Marshal(map[string][]string{"residency": regions})
	if err != nil {
		return err
	}
	return pg.Owner(ctx, ownerURL, func(q *pgdb.Queries) error {
		changed, err := q.SetTenantResidency(ctx, regions, tenant)
		if err != nil {
			return err
		}
		if changed == 0 {
			return step.Errorf(step.KindNotFound, "there is no tenant %.80q", tenant)
		}
		return q.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: tenant, Principal: "owner", Action: "tenant.residency", Target: tenant, Outcome: "allowed", Detail: detail})
	})
}

// SetTenantQuota bounds, as the schema's owner, what a tenant may use in a
// month; nil = not at all.
func SetTenantQuota(ctx context.Context, ownerURL, tenant string, computeMinutes *float64) error {
	var most *int64
	if m := computeMinutes; m != nil {
		if !(*m >= 0 && *m <= maxMinutes) {
			return fmt.Errorf("%v compute minutes: 0 to %d", *m, int64(maxMinutes))
		}
		ms := int64(math.Round(*m*100)) * 600 // two places
		most = &ms
	}
	detail, err := json.Marshal(map[string]any{"max_compute_minutes_per_month": computeMinutes})
	if err != nil {
		return err
	}
	return pg.Owner(ctx, ownerURL, func(q *pgdb.Queries) error {
		changed, err := q.SetTenantQuota(ctx, most, tenant)
		if err != nil {
			return err
		}
		if changed == 0 {
			return step.Errorf(step.KindNotFound, "there is no tenant %.80q", tenant)
		}
		return q.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: tenant, Principal: "owner", Action: "tenant.quota", Target: tenant, Outcome: "allowed", Detail: detail})
	})
}

// SetTenantConcurrency bounds, as the schema's owner, how many runs and steps of
// a tenant run at once; 0 = not at all, nil = as before.
func SetTenantConcurrency(ctx context.Context, ownerURL, tenant string, runs, steps *int32) error {
	for _, n := range []*int32{runs, steps} {
		if n != nil && *n < 0 {
			return fmt.Errorf("%d at once: at least 1", *n)
		}
	}
	what := map[string]any{}
	if runs != nil {
		what["max_concurrent_runs"] = *runs
	}
	if steps != nil {
		what["max_concurrent_steps"] = *steps
	}
	detail, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return pg.Owner(ctx, ownerURL, func(q *pgdb.Queries) error {
		changed, err := q.SetTenantConcurrency(ctx, pgdb.SetTenantConcurrencyParams{TenantID: tenant, MaxRuns: runs, MaxSteps: steps})
		if err != nil {
			return err
		}
		if changed == 0 {
			return step.Errorf(step.KindNotFound, "there is no tenant %.80q", tenant)
		}
		return q.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: tenant, Principal: "owner", Action: "tenant.concurrency", Target: tenant, Outcome: "allowed", Detail: detail})
	})
}

// maxMinutes is more than any installation has in a month.
const maxMinutes = 1e9

// OpenAPI is the API's document, as YAML.
func OpenAPI() ([]byte, error) { return httpapi.OpenAPI() }
