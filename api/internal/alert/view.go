package alert

import (
	"context"
	"encoding/json"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// listed is how many episodes a list has.
const listed = 50

// List gives a tenant's rules, newest episodes and receivers.
func (s *Service) List(ctx context.Context, tenant string) (wire.AlertList, error) {
	out := wire.AlertList{}
	err := s.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		out = wire.AlertList{Rules: []wire.AlertRule{}, Alerts: []wire.Alert{}, Receivers: []wire.AlertReceiver{}}
		rules, err := db.ListAlertRules(ctx, tenant)
		if err != nil {
			return err
		}
		for _, r := range rules {
			rule := wire.AlertRule{Name: r.Name, Metric: r.Metric, Above: r.Above, Below: r.Below, ForSeconds: int(r.ForSeconds), Value: r.Value,
				SeenAt: r.SeenAt, Since: r.Since, SilencedUntil: r.SilencedUntil}
			if r.AlertID != nil {
				rule.AlertID = *r.AlertID
			}
			out.Rules = append(out.Rules, rule)
		}
		alerts, err := db.ListAlerts(ctx, tenant, listed)
		if err != nil {
			return err
		}
		for _, a := range alerts {
			out.Alerts = append(out.Alerts, wire.Alert(a))
		}
		receivers, err := db.ListReceivers(ctx, tenant)
		if err != nil {
			return err
		}
		for _, r := range receivers {
			out.Receivers = append(out.Receivers, wire.AlertReceiver{Name: r.Name, Kind: r.Kind, Host: r.Place, Last: r.Last, DisabledAt: r.DisabledAt})
		}
		return nil
	})
	return out, err
}

// Silence keeps a rule from beginning an episode for some minutes.
func (s *Service) Silence(ctx context.Context, who auth.Principal, rule string, minutes int, requestID string) error {
	return s.act(ctx, who, "alert.silence", rule, requestID, map[string]any{"minutes": minutes}, func(db *pgdb.Queries) (int64, error) {
		return db.SilenceRule(ctx, pgdb.SilenceRuleParams{TenantID: who.TenantID, Name: rule, Minutes: int32(minutes)}) //nolint:gosec // the API bounds it
	})
}

// Test has a test message sent, whose id is given.
func (s *Service) Test(ctx context.Context, who auth.Principal, receiver, id, requestID string) error {
	return s.act(ctx, who, "alert.test", receiver, requestID, nil, func(db *pgdb.Queries) (int64, error) {
		n, err := db.InsertTest(ctx, pgdb.InsertTestParams{ID: id, TenantID: who.TenantID, Receiver: receiver})
		if err != nil || n > 0 {
			return n, err
		}
		gone, err := db.GoneReceiver(ctx, who.TenantID, receiver)
		if err == nil && gone {
			err = step.Errorf(step.KindConflict, "the receiver %.80q is disabled: it said that it is gone; have the operator set it again", receiver)
		}
		return 0, err
	})
}

// act changes what is there, and audits it.
func (s *Service) act(ctx context.Context, who auth.Principal, action, target, requestID string, detail map[string]any, do func(*pgdb.Queries) (int64, error)) error {
	raw, err := json.Marshal(detail)
	if err != nil {
		return err
	}
	return s.DB.Tenant(ctx, who.TenantID, func(db *pgdb.Queries) error {
		changed, err := do(db)
		if err != nil {
			return err
		}
		if changed == 0 {
			return step.Errorf(step.KindNotFound, "there is no %.80q", target)
		}
		return db.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: who.TenantID, Principal: who.KeyID, Action: action, Target: target, Outcome: "allowed", RequestID: requestID, Detail: raw})
	})
}
