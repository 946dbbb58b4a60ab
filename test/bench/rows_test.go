package bench

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkRows is what a step costs Postgres with a thousand finished steps in
// the tables and with a million, in turns on one server, at a fixed rate so
// that both have batches of the same size.
func BenchmarkRows(b *testing.B) {
	const (
		turns      = 3
		rate       = 300
		lead, span = 2 * time.Second, 8 * time.Second
	)
	few := newPlane(b)
	type contender struct {
		name  string
		p     *plane
		rows  int
		cost  time.Duration
		pages int64
		steps int64
	}
	all := []*contender{{name: "1e3", p: few, rows: 1_000}, {name: "1e6", p: few.beside(), rows: 1_000_000}}
	for _, c := range all {
		c.p.fill(c.rows)
	}
	gate := NewGate(b, few.server, func() time.Duration { return all[1].p.usage().api })
	for range turns {
		for _, c := range all {
			l := newLoad(c.p, 10)
			pages := c.p.pages()
			used := c.p.usage()
			l.drive(rate, lead, span)
			used = c.p.usage().since(used)
			c.pages += c.p.pages() - pages
			c.cost += used.pg
			c.steps += l.next.Load() * 10
			gate.Look()
		}
	}
	for _, c := range all {
		b.ReportMetric(micros(c.cost, c.steps), c.name+"-pg-µs/step")
		b.ReportMetric(float64(c.pages)/float64(c.steps), c.name+"-pages/step")
	}
	gate.Ratio("cpu-1e6/1e3", micros(all[1].cost, all[1].steps)/micros(all[0].cost, all[0].steps))
	gate.Ratio("pages-1e6/1e3", float64(all[1].pages)/float64(all[1].steps)/(float64(all[0].pages)/float64(all[0].steps)))
	b.ReportMetric(0, "ns/op")
}

// pages are how many pages Postgres has looked at in this database so far, in
// its memory or on disk.
func (p *plane) pages() int64 {
	p.b.Helper()
	conn := p.connect()
	defer conn.Close(p.b.Context())
	var n int64
	if err := conn.QueryRow(p.b.Context(), "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()").Scan(&n); err != nil {
		p.b.Fatal(err)
	}
	return n
}

// fill puts n runs of one step into the tables, all finished, with what a
// finished step leaves. Their ids sort before those of now. Keys to other
// tables are not checked meanwhile, which would take longer than all the rest.
func (p *plane) fill(n int) {
	p.b.Helper()
	conn := p.connect()
	defer conn.Close(p.b.Context())
	for _, text := range []string{
		"SET session_replication_role = replica",
		"SET synchronous_commit = off",
		"INSERT INTO nofx.project (tenant_id, id) VALUES ('bench', 'default') ON CONFLICT DO NOTHING",
		`INSERT INTO nofx.worker (id, tenant_id, key_id, name, incarnation, region, version, slots, drivers, status)
		 SELECT 'wrk_old', 'bench', k.id, 'old', 'old', 'local', 'bench', 1, '[]', 'lost' FROM nofx.api_key k WHERE k.role = 'worker'`,
		`INSERT INTO nofx.run (id, tenant_id, project_id, goal, status, region, correlation_id, steps_left, next_seq, created_at, started_at, ended_at)
		 SELECT 'run_00' || lpad(n::text, 24, '0'), 'bench', 'default', 'bench', 'succeeded', 'local', md5(n::text), 0, 8, t.at, t.at, t.at
		 FROM generate_series(1, {n}) n, LATERAL (SELECT now() - interval '1 day' + n * interval '10 ms' AS at) t`,
		`INSERT INTO nofx.step (id, tenant_id, run_id, idx, name, tool, driver, status, attempt, epoch, deps_left, depends_on, dependants, shares, inputs, command, reads,
		   shown, resources, workspace, network, on_output, timeout_ms, grace_ms, artifacts, idempotent, tries, backoff_ms, idempotency_key, verdict, ended_at, lane)
		 SELECT 'step_00' || lpad(n::text, 24, '0'), 'bench', 'run_00' || lpad(n::text, 24, '0'), 0, 's0-0', 'test:echo', 'local', 'succeeded', 1, 1, 0, '{}', '{}', false,
		   '{"msg":"hello from a step"}', '{"argv":["cat"],"env":{},"cwd":"/workspace"}', 'stdout-json', 'cat', '{"cpu":1,"memory_mb":128,"pids":32,"output_kb":4096}', 'step',
		   'none', 'truncate', 30000, 5000, '{}', false, 1, 1000, md5(n::text), '{"cause":"exit","exit_code":0,"attested":"kernel"}', now() - interval '1 day', 'test:echo'
		 FROM generate_series(1, {n}) n`,
		`INSERT INTO nofx.attempt (id, tenant_id, run_id, step_id, generation, number, epoch, status, worker_id, claim_id, lease_until, journal_n, output_bytes, driver_version,
		   sandbox_id, started_at, ended_at, verdict, driver)
		 SELECT 'att_00' || lpad(n::text, 24, '0'), 'bench', 'run_00' || lpad(n::text, 24, '0'), 'step_00' || lpad(n::text, 24, '0'), 1, 1, 1, 'ended', 'wrk_old', md5(n::text),
		   now() - interval '1 day', 3, 28, 'bench', 'sandbox', now() - interval '1 day', now() - interval '1 day', '{"cause":"exit","exit_code":0,"attested":"kernel"}', 'local'
		 FROM generate_series(1, {n}) n`,
		`INSERT INTO nofx.output_index (tenant_id, attempt_id, start, length, frames)
		 SELECT 'bench', 'att_00' || lpad(n::text, 24, '0'), 0, 28, '\x010000001c' FROM generate_series(1, {n}) n`,
		`INSERT INTO nofx.event (tenant_id, run_id, seq, type, step_id, step_name, attempt, payload)
		 SELECT 'bench', 'run_00' || lpad(n::text, 24, '0'), s, 'step.finished', 'step_00' || lpad(n::text, 24, '0'), 's0-0', 1, '{"cause":"exit","exit_code":0}'
		 FROM generate_series(1, {n}) n, generate_series(1, 3) s`, // of about seven
		`INSERT INTO nofx.event_log (position, tenant_id, run_id, first_seq, last_seq)
		 SELECT n, 'bench', 'run_00' || lpad(n::text, 24, '0'), 1, 7 FROM generate_series(1, {n}) n`,
		"UPDATE nofx.event_head SET position = {n}",
		`INSERT INTO nofx.audit_log (tenant_id, principal, action, target, outcome, request_id)
		 SELECT 'bench', 'key', 'run.create', 'run_00' || lpad(n::text, 24, '0'), 'allowed', md5(n::text) FROM generate_series(1, {n}) n`,
		"VACUUM (ANALYZE)",
		"CHECKPOINT",
	} {
		if _, err := conn.Exec(p.b.Context(), strings.ReplaceAll(text, "{n}", strconv.Itoa(n))); err != nil {
			p.b.Fatalf("%v: %s", err, text)
		}
	}
}
