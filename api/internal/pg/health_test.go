package pg_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

const longSpan = 3_600_000 // ms; the tests move rows into the past themselves

// tallied is one write of a shard.
type tallied struct {
	shard             int32
	generation        int64
	good, bad, streak int64
}

func (r tallied) params(lanes ...string) pgdb.TallyParams {
	p := pgdb.TallyParams{Shard: r.shard}
	for _, lane := range lanes {
		p.TenantIds, p.Lanes, p.Drivers = append(p.TenantIds, ""), append(p.Lanes, lane), append(p.Drivers, "local")
		p.Generations, p.SpansMs = append(p.Generations, r.generation), append(p.SpansMs, longSpan)
		p.Goods, p.Bads, p.Streaks = append(p.Goods, r.good), append(p.Bads, r.bad), append(p.Streaks, r.streak)
	}
	return p
}

// Results fall out after two further spans, those of an older generation never
// come in, and failures in a row are counted over the shards, never too many.
func TestTally(t *testing.T) {
	t.Parallel()
	db := server.Database(t)
	admin, system := connect(t, db.Admin), connect(t, db.System)
	q := pgdb.New(system)
	want := func(what string, generation int64, want pgdb.FoldTallyRow) {
		t.Helper()
		got, err := q.FoldTally(t.Context(), pgdb.FoldTallyParams{SpanMs: longSpan, Lane: "bash", Driver: "local", Generation: generation})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	add := func(r tallied) {
		t.Helper()
		if err := q.Tally(t.Context(), r.params("bash", "other")); err != nil {
			t.Fatal(err)
		}
	}
	later := func() { exec(t, admin, "UPDATE nofx.handler_tally SET span = span - 1") }

	want("nothing", 0, pgdb.FoldTallyRow{})
	add(tallied{0, 0, 2, 1, 1})
	want("one", 0, pgdb.FoldTallyRow{Good: 2, Bad: 1, Streak: 1})
	later()
	add(tallied{0, 0, 0, 1, 1})
	later()
	add(tallied{0, 0, 0, 3, 3})
	want("three spans", 0, pgdb.FoldTallyRow{Good: 2, Bad: 5, Streak: 5})
	later()
	want("the first falls out as time goes", 0, pgdb.FoldTallyRow{Bad: 4, Streak: 5})
	add(tallied{0, 0, 0, 1, 1})
	want("and with a write", 0, pgdb.FoldTallyRow{Bad: 5, Streak: 6})
	later()
	later()
	add(tallied{0, 0, 1, 0, 0})
	want("two spans without any", 0, pgdb.FoldTallyRow{Good: 1, Bad: 1})
	later()
	later()
	later()
	want("all gone", 0, pgdb.FoldTallyRow{})
	add(tallied{0, 0, 0, 1, 1})
	want("a new beginning", 0, pgdb.FoldTallyRow{Bad: 1, Streak: 1})

	add(tallied{0, 2, 0, 2, 2})
	add(tallied{0, 1, 7, 0, 0})
	want("a straggler", 2, pgdb.FoldTallyRow{Bad: 2, Streak: 2})
	want("what was before", 0, pgdb.FoldTallyRow{})

	add(tallied{1, 2, 0, 1, 1})
	want("two shards", 2, pgdb.FoldTallyRow{Bad: 3, Streak: 3})
	add(tallied{1, 2, 1, 0, 0})
	want("a success on one", 2, pgdb.FoldTallyRow{Good: 1, Bad: 3})
	add(tallied{0, 2, 0, 1, 1})
	want("of a streak across it what is certain", 2, pgdb.FoldTallyRow{Good: 1, Bad: 4, Streak: 1})
	add(tallied{1, 2, 0, 2, 2})
	want("and what came after", 2, pgdb.FoldTallyRow{Good: 1, Bad: 6, Streak: 3})
	add(tallied{0, 2, 1, 2, 1})
	want("a success within a write", 2, pgdb.FoldTallyRow{Good: 2, Bad: 8, Streak: 1})
}

// What is of all tenants, each may read and none may change.
func TestSharedHealth(t *testing.T) {
	t.Parallel()
	db := server.Database(t)
	admin, api := connect(t, db.Admin), connect(t, db.API)
	fill(t, admin, "alpha")
	fill(t, admin, "beta")
	exec(t, admin, `
		INSERT INTO nofx.handler_health (tenant_id, lane, handler, driver, state, generation, opens, forced, probe_id, probe_ms, reason) VALUES ('', 't', 't', 'local', 'closed', 1, 0, false, '', 1, '');
		INSERT INTO nofx.breaker_event (tenant_id, handler, driver, type, reason) VALUES ('', 't', 'local', 'breaker.opened', '')`)
	exec(t, admin, "GRANT INSERT, UPDATE, DELETE ON nofx.handler_health, nofx.breaker_event TO nofx_api")
	for _, table := range []string{"handler_health", "breaker_event"} {
		for tenant, want := range map[string]int64{"alpha": 2, "beta": 2, "": 0} {
			exec(t, api, "SELECT set_config('nofx.tenant', '"+tenant+"', false)")
			tag, err := api.Exec(t.Context(), "SELECT FROM nofx."+table)
			if err != nil || tag.RowsAffected() != want {
				t.Errorf("%q sees %d rows of %s, %v", tenant, tag.RowsAffected(), table, err)
			}
			for _, change := range []string{"UPDATE nofx." + table + " SET reason = 'x' WHERE tenant_id = ''", "DELETE FROM nofx." + table + " WHERE tenant_id = ''"} {
				if tag, err := api.Exec(t.Context(), change); err != nil || tag.RowsAffected() != 0 {
					t.Errorf("%q: %s: %d rows, %v", tenant, change, tag.RowsAffected(), err)
				}
			}
		}
		exec(t, api, "SELECT set_config('nofx.tenant', 'alpha', false)")
		insert := "INSERT INTO nofx.breaker_event (tenant_id, handler, driver, type, reason) VALUES ('', 't', 'local', 'x', '')"
		if _, err := api.Exec(t.Context(), insert); err == nil || !strings.Contains(err.Error(), "row-level security") {
			t.Errorf("alpha made an event of all: %v", err)
		}
	}
}

// BenchmarkTally is what results cost when many workers ship those of one
// handler at once: spread over shards, and all in one row as it would be.
func BenchmarkTally(b *testing.B) {
	for name, shards := range map[string]int32{"one-row": 1, "32-shards": 32} {
		b.Run(name, func(b *testing.B) {
			base := server.Database(b)
			db, err := pg.Open(b.Context(), pg.Config{TenantURL: base.API, SystemURL: base.System, MaxConns: 32})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			var left atomic.Int64
			left.Store(int64(b.N))
			var group sync.WaitGroup
			b.ResetTimer()
			for w := range 32 {
				group.Go(func() {
					p := tallied{int32(w) % shards, 0, 1, 0, 0}.params("bash")
					for left.Add(-1) >= 0 {
						// Whatever else the verdict's transaction does while it holds the row.
						err := db.System(context.Background(), func(q *pgdb.Queries) error {
							if err := q.Tally(context.Background(), p); err != nil {
								return err
							}
							_, err := q.GetHealth(context.Background(), fmt.Sprint(w), "local")
							return err
						})
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/max(b.Elapsed(), time.Nanosecond).Seconds(), "results/s")
		})
	}
}
