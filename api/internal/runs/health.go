package runs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nofx-run/nofx/api/internal/breaker"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// behind says in words which breaker a step waits for.
func behind(s pgdb.ListStepsRow) string {
	what := fmt.Sprintf("the breaker of %s on %s", s.Tool, s.Driver)
	switch {
	case breaker.State(*s.Breaker) == breaker.HalfOpen:
		return what + ", which tries another step first"
	case s.ReadyAt == nil:
		what += ", which an operator has opened"
		if _, why, said := strings.Cut(*s.BreakerReason, ": "); said { // after what the operator did
			what += ": " + why
		}
		return what
	}
	return fmt.Sprintf("%s, open until %s: %s", what, s.ReadyAt.UTC().Format(time.RFC3339), *s.BreakerReason)
}

// Health puts the breakers that a tenant's steps meet beside their handlers.
func (r *Reader) Health(ctx context.Context, tenant string, handlers []wire.HandlerInfo) ([]wire.HandlerInfo, error) {
	handlers = slices.Clone(handlers)
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		rows, err := db.ListHealth(ctx, tenant)
		if err != nil {
			return err
		}
		found := map[string][]wire.BreakerInfo{}
		for _, h := range rows {
			b := wire.BreakerInfo{Driver: h.Driver, PerTenant: h.TenantID != "", State: h.State, Forced: h.Forced, Reason: h.Reason,
				Generation: h.Generation, Opens: int(h.Opens), ReadyAt: utc(h.ReadyAt), ChangedAt: utc(&h.ChangedAt)}
			found[h.Handler] = append(found[h.Handler], b)
		}
		for i := range handlers {
			handlers[i].Breakers = withUntouched(found[handlers[i].Tool], handlers[i])
		}
		return nil
	})
	return handlers, err
}

// withUntouched adds the breakers of the handler's own drivers that nothing has
// happened to.
func withUntouched(list []wire.BreakerInfo, h wire.HandlerInfo) []wire.BreakerInfo {
	names := h.Drivers
	if len(names) == 0 {
		names = []string{h.DefaultDriver}
	}
	for _, name := range names {
		if !slices.ContainsFunc(list, func(b wire.BreakerInfo) bool { return b.Driver == name }) {
			list = append(list, wire.BreakerInfo{Driver: name, PerTenant: h.Breaker.PerTenant, State: string(breaker.Closed)})
		}
	}
	slices.SortStableFunc(list, func(a, b wire.BreakerInfo) int { return strings.Compare(a.Driver, b.Driver) })
	return list
}

// BreakerEvents lists what became of the breakers that a tenant's steps meet,
// the newest first.
func (r *Reader) BreakerEvents(ctx context.Context, tenant string, most int) (wire.BreakerEvents, error) {
	out := wire.BreakerEvents{Events: []wire.BreakerEvent{}}
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		rows, err := db.ListBreakerEvents(ctx, tenant, int32(most)) //nolint:gosec // the API bounds it
		if err != nil {
			return err
		}
		out.Events = make([]wire.BreakerEvent, 0, len(rows))
		for _, e := range rows {
			out.Events = append(out.Events, wire.BreakerEvent{Type: step.EventType(e.Type), Tool: e.Handler, Driver: e.Driver,
				PerTenant: e.TenantID != "", Reason: e.Reason, CreatedAt: e.CreatedAt.UTC()})
		}
		return nil
	})
	return out, err
}
