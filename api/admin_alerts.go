package api

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"time"

	"github.com/nofx-run/nofx/api/internal/alert"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/secret"
	"github.com/nofx-run/nofx/sdk/step"
)

// AlertReceiver is who is to be told of a tenant's alerts.
type AlertReceiver struct {
	Tenant, Name string
	Kind         string // slack or webhook
	URL          string
	Secret       string // a webhook's; "" = one is made
	KeysetFile   string // with which both are sealed
}

// AlertRule is when they are.
type AlertRule struct {
	Tenant, Name string
	Metric       string
	Above, Below float64
	For          time.Duration
}

// AlertMetrics are the names of what rules can look at.
func AlertMetrics() []string {
	return []string{"queue_depth", "oldest_age_seconds", "dlq_growth", "workers_lost", "sweep_leftovers", "breakers_open", "spool_trouble", "audit_trouble"}
}

// defaultRules come with a tenant's first receiver.
func defaultRules() []AlertRule {
	return []AlertRule{
		{Name: "queue-deep", Metric: "queue_depth", Above: 1000, Below: 500, For: 5 * time.Minute},
		{Name: "queue-old", Metric: "oldest_age_seconds", Above: 900, Below: 300, For: time.Minute},
		{Name: "dlq-grows", Metric: "dlq_growth", Above: 0, Below: 0},
		{Name: "worker-lost", Metric: "workers_lost", Above: 0, Below: 0},
		{Name: "leftovers", Metric: "sweep_leftovers", Above: 10, Below: 0},
		{Name: "breaker-open", Metric: "breakers_open", Above: 0, Below: 0},
		{Name: "disk-full", Metric: "spool_trouble", Above: 0, Below: 0, For: time.Minute},
		{Name: "audit", Metric: "audit_trouble", Above: 0, Below: 0},
	}
}

var alertName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)

// SetAlertReceiver adds or replaces a receiver as the schema's owner, and with a
// tenant's first one the usual rules. It returns a webhook's secret.
func SetAlertReceiver(ctx context.Context, ownerURL string, r AlertReceiver) (signing string, err error) {
	if !alertName.MatchString(r.Name) {
		return "", fmt.Errorf("name %.80q: 1 to 63 of a-z 0-9 _ . -", r.Name)
	}
	if r.Kind == "webhook" && r.Secret == "" {
		var key [32]byte
		_, _ = rand.Read(key[:]) // never fails
		r.Secret = "whsec_" + base64.StdEncoding.EncodeToString(key[:])
	}
	host, err := alert.Receiver{Kind: r.Kind, URL: r.URL, Secret: r.Secret}.Check()
	if err != nil {
		return "", err
	}
	keys, err := secret.Load(r.KeysetFile)
	if err != nil {
		return "", err
	}
	if err := keys.Ready(); err != nil {
		return "", fmt.Errorf("a receiver's url is a secret and is not kept in clear: %w", err)
	}
	content := secret.Receiver{URL: r.URL, Secret: r.Secret}
	err = alertChange(ctx, ownerURL, r.Tenant, "alert.receiver", r.Name, map[string]any{"kind": r.Kind, "host": host}, func(q *pgdb.Queries) error {
		if content.Before, err = signedBefore(ctx, q, keys, r); err != nil {
			return err
		}
		if content.Before != "" {
			content.Until = time.Now().Add(rotation)
		}
		sealed, err := keys.SealReceiver(r.Tenant, r.Name, content)
		if err != nil {
			return err
		}
		others, err := q.HasReceivers(ctx, r.Tenant)
		if err != nil {
			return err
		}
		if err := q.SetReceiver(ctx, pgdb.SetReceiverParams{TenantID: r.Tenant, Name: r.Name, Kind: r.Kind, Sealed: sealed, Place: host}); err != nil {
			return err
		}
		if others {
			return nil // what is not there was removed
		}
		for _, d := range defaultRules() {
			if err := q.AddRule(ctx, pgdb.AddRuleParams{TenantID: r.Tenant, Name: d.Name, Metric: d.Metric, Above: d.Above, Below: d.Below, ForSeconds: int32(d.For.Seconds())}); err != nil {
				return err
			}
		}
		return nil
	})
	return r.Secret, err
}

// rotation is how long messages are signed with a webhook's secret of before, too.
const rotation = 24 * time.Hour

// signedBefore is the secret that a webhook has so far; "" = none, or none that
// can be opened any more.
func signedBefore(ctx context.Context, q *pgdb.Queries, keys *secret.Keys, r AlertReceiver) (string, error) {
	if r.Kind != "webhook" {
		return "", nil
	}
	row, err := q.ReceiverToSeal(ctx, r.Tenant, r.Name)
	if errors.Is(err, pg.ErrNoRow) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	was := secret.Receiver{Secret: row.Secret}
	if len(row.Sealed) > 0 {
		if was, err = keys.OpenReceiver(r.Tenant, r.Name, row.Sealed); err != nil {
			return "", nil //nolint:nilerr // it is replaced
		}
	}
	if was.Secret == r.Secret {
		return "", nil
	}
	return was.Secret, nil
}

// DropAlertReceiver removes a receiver, and what was on its way to it.
func DropAlertReceiver(ctx context.Context, ownerURL, tenant, name string) error {
	return alertChange(ctx, ownerURL, tenant, "alert.receiver.remove", name, nil, func(q *pgdb.Queries) error {
		n, err := q.DropReceiver(ctx, tenant, name)
		return missing(n, err, "receiver", name)
	})
}

// SetAlertRule adds or replaces a rule as the schema's owner.
func SetAlertRule(ctx context.Context, ownerURL string, r AlertRule) error {
	switch {
	case !alertName.MatchString(r.Name):
		return fmt.Errorf("name %.80q: 1 to 63 of a-z 0-9 _ . -", r.Name)
	case !slices.Contains(AlertMetrics(), r.Metric):
		return fmt.Errorf("metric %.80q: one of %v", r.Metric, AlertMetrics())
	case math.IsNaN(r.Above) || math.IsInf(r.Above, 0) || math.IsNaN(r.Below) || r.Above < 0 || r.Below < 0 || r.Below > r.Above:
		return fmt.Errorf("above %v and below %v: numbers from 0 on, and below not more than above", r.Above, r.Below)
	case r.For < 0 || r.For > 24*time.Hour:
		return fmt.Errorf("for %v: 0 to 24h", r.For)
	}
	detail := map[string]any{"metric": r.Metric, "above": r.Above, "below": r.Below, "for_seconds": int(r.For.Seconds())}
	return alertChange(ctx, ownerURL, r.Tenant, "alert.rule", r.Name, detail, func(q *pgdb.Queries) error {
		return q.SetRule(ctx, pgdb.SetRuleParams{TenantID: r.Tenant, Name: r.Name, Metric: r.Metric, Above: r.Above, Below: r.Below, ForSeconds: int32(r.For.Seconds())})
	})
}

// DropAlertRule removes a rule. An open episode of it is over at the next tick.
func DropAlertRule(ctx context.Context, ownerURL, tenant, name string) error {
	return alertChange(ctx, ownerURL, tenant, "alert.rule.remove", name, nil, func(q *pgdb.Queries) error {
		n, err := q.DropRule(ctx, tenant, name)
		return missing(n, err, "rule", name)
	})
}

func missing(n int64, err error, what, name string) error {
	if err == nil && n == 0 {
		return step.Errorf(step.KindNotFound, "there is no %s %.80q", what, name)
	}
	return err
}

func alertChange(ctx context.Context, ownerURL, tenant, action, target string, detail map[string]any, do func(*pgdb.Queries) error) error {
	raw, err := json.Marshal(detail)
	if err != nil {
		return err
	}
	return pg.Owner(ctx, ownerURL, func(q *pgdb.Queries) error {
		if err := do(q); err != nil {
			return err
		}
		return q.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: tenant, Principal: "owner", Action: action, Target: target, Outcome: "allowed", Detail: raw})
	})
}
