package queue

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/breaker"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// SetBreakers does to a handler's breakers what an operator asks, with an
// audit row for each.
func (q *Queue) SetBreakers(ctx context.Context, who auth.Principal, in wire.SetBreaker, requestID string) (wire.BreakersSet, error) {
	var to func(breaker.Breaker, string) breaker.Breaker
	switch in.Action {
	case wire.BreakerReset:
		to = breaker.Breaker.Reset
	case wire.BreakerForceOpen:
		to = func(b breaker.Breaker, why string) breaker.Breaker { return b.Force(breaker.Open, why) }
	case wire.BreakerForceClose:
		to = func(b breaker.Breaker, why string) breaker.Breaker { return b.Force(breaker.Closed, why) }
	default:
		return wire.BreakersSet{}, invalid("body.action", "must be reset, force-open or force-close")
	}
	for _, f := range []struct{ at, text string }{{"body.tool", in.Tool}, {"body.driver", in.Driver}, {"body.tenant", in.Tenant}, {"body.reason", in.Reason}} {
		if len(f.text) > maxID || !utf8.ValidString(f.text) || strings.ContainsFunc(f.text, unicode.IsControl) {
			return wire.BreakersSet{}, invalid(f.at, "must be one line of at most %d bytes", maxID)
		}
	}
	drivers, found := q.cfg.Rules.Drivers(in.Tool)
	if !found {
		return wire.BreakersSet{}, &step.Error{Kind: step.KindNotFound, Message: "no handler " + clip(in.Tool) + ": nofx handlers lists them"}
	}
	why := "an operator's " + string(in.Action)
	if in.Reason != "" {
		why += ": " + in.Reason
	}
	offered, err := q.cfg.Fleet.Known(ctx, true)
	if err != nil {
		return wire.BreakersSet{}, err
	}
	own := func(driver string) bool { return q.cfg.Rules.Rules(in.Tool).PerTenant || offered[driver].ByTenant }
	name, known, use := plan.Named(in.Driver, offered)
	in.Driver = name
	out := wire.BreakersSet{Tool: in.Tool}
	var set map[gate]breaker.Breaker
	err = q.db.System(ctx, func(db *pgdb.Queries) error {
		set = map[gate]breaker.Breaker{}
		if in.Tenant != "" {
			there, err := db.TenantKnown(ctx, in.Tenant)
			if err != nil {
				return err
			}
			if !there {
				return step.Errorf(step.KindNotFound, "no tenant %s", clip(in.Tenant))
			}
		}
		met, err := db.GatesOfHandler(ctx, in.Tool)
		if err != nil {
			return err
		}
		known = known || in.Driver == "" || in.Action == wire.BreakerReset || slices.Contains(drivers, in.Driver) ||
			slices.ContainsFunc(met, func(m pgdb.GatesOfHandlerRow) bool { return m.Driver == in.Driver })
		if !known { // a slip would bar nothing, and be said to be done
			return invalid("body.driver", "%q is neither a driver of NOFX nor one that a worker offers: use one of %s", in.Driver, use)
		}
		list, err := gatesMeant(in, drivers, met, own)
		if err != nil {
			return err
		}
		for _, g := range list {
			next, changed, err := q.turnIn(ctx, db, g, func(_ *pgdb.Queries, b breaker.Breaker, _ breaker.Rules, _ time.Time) (breaker.Breaker, bool, error) {
				return to(b, why), true, nil
			})
			if err != nil {
				return err
			}
			if !changed {
				return step.Errorf(step.KindConflict, "the breaker of %s on %s is changing at this moment: try again", in.Tool, g.driver)
			}
			set[g] = next
			detail, err := json.Marshal(map[string]string{"driver": g.driver, "tenant": breaker.ParseLane(g.lane).Tenant, "reason": in.Reason})
			if err != nil {
				return err
			}
			if err := db.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: who.TenantID, Principal: who.KeyID, Action: "breaker." + string(in.Action),
				Target: in.Tool + "/" + g.driver, Outcome: "allowed", RequestID: requestID, Detail: detail}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return wire.BreakersSet{}, err
	}
	out.Drivers, out.State = []string{}, string(to(breaker.Breaker{}, "").State)
	for _, g := range slices.SortedFunc(maps.Keys(set), byName) {
		q.turned(ctx, g, set[g])
		if !slices.Contains(out.Drivers, g.driver) {
			out.Drivers = append(out.Drivers, g.driver)
		}
	}
	if in.Action == wire.BreakerForceOpen {
		return out, q.settle(ctx)
	}
	return out, nil
}

// gatesMeant are the breakers that an operator means. A reset is of those that
// something has happened to, of all tenants if none is named; the others are of
// one lane, whatever has happened to it, and only where steps meet it.
func gatesMeant(in wire.SetBreaker, drivers []string, met []pgdb.GatesOfHandlerRow, own func(driver string) bool) ([]gate, error) {
	var list []gate
	lane := breaker.Lane{Handler: in.Tool, Tenant: in.Tenant}.String()
	for _, m := range met {
		if m.Lane == lane || in.Action == wire.BreakerReset && in.Tenant == "" {
			list = append(list, gate{m.Lane, m.Driver})
		}
	}
	if in.Action != wire.BreakerReset {
		for _, d := range drivers {
			list = append(list, gate{lane, d})
		}
		if in.Driver != "" {
			list = append(list, gate{lane, in.Driver})
		}
	}
	list = slices.DeleteFunc(list, func(g gate) bool { return in.Driver != "" && g.driver != in.Driver })
	if in.Action != wire.BreakerReset {
		if in.Tenant == "" {
			for _, g := range list {
				if own(g.driver) {
					return nil, invalid("body.tenant", "each tenant has a breaker of its own for %s on %s: say whose", in.Tool, g.driver)
				}
			}
		} else if list = slices.DeleteFunc(list, func(g gate) bool { return !own(g.driver) }); len(list) == 0 {
			return nil, invalid("body.tenant", "the breaker of %s is one for all tenants: leave the tenant out", in.Tool)
		}
	}
	slices.SortFunc(list, byName)
	return slices.Compact(list), nil
}
