package retention_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/blob"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/api/internal/queue"
	"github.com/nofx-run/nofx/api/internal/retention"
	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/internal/testpg"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// perRun is how many steps a run has here.
const perRun = 5

// BenchmarkRemove removes finished steps (NOFX_BENCH_STEPS, 50,000) from a
// database that writes through, while workers claim and end 200 steps a second.
// It works and rests by turns of some seconds, and reports claims in both, and
// what is left on the disk. Once is enough: -benchtime 1x.
func BenchmarkRemove(b *testing.B) {
	n := 50_000
	if text := os.Getenv("NOFX_BENCH_STEPS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		s := newStand(b, n)
		s.sizes("full")
		var took time.Duration
		var seen counted
		service := &retention.Service{DB: s.db, Keep: retention.Keep{Runs: 30 * 24 * time.Hour}, Observer: &seen, Log: slog.New(slog.DiscardHandler)}
		rest, busy := s.load(func(ctx context.Context, working *atomic.Bool) {
			for seen.runs < int64(n/perRun) {
				began := time.Now()
				working.Store(true)
				turn, cancel := context.WithTimeout(ctx, 10*time.Second)
				err := service.Tick(turn)
				cancel()
				working.Store(false)
				took += time.Since(began)
				if err != nil {
					b.Error(err)
					return
				}
				pause(ctx, 7500*time.Millisecond)
			}
		})
		s.sizes("removed")
		s.exec("VACUUM nofx.run, nofx.step, nofx.attempt, nofx.event, nofx.output_index, nofx.event_log, nofx.artifact")
		s.fill(n, 1)
		s.sizes("full of others")
		b.ReportMetric(float64(n)/took.Seconds(), "steps/s")
		for name, l := range map[string][]time.Duration{"without": rest, "with": busy} {
			if len(l) == 0 {
				b.Fatal("nothing was claimed")
			}
			slices.Sort(l)
			b.ReportMetric(float64(l[len(l)/2].Microseconds())/1000, name+"-p50-ms")
			b.ReportMetric(float64(l[len(l)*99/100].Microseconds())/1000, name+"-p99-ms")
			b.Logf("%s: %d claims", name, len(l))
		}
	}
}

// counted adds up what was removed.
type counted struct{ runs int64 }

func (c *counted) Removed(r retention.Removed) { c.runs += r.Runs }
func (c *counted) Collected(blob.Collected)    {}

// stand is a queue over a database that is full of finished runs.
type stand struct {
	b     *testing.B
	admin *pgx.Conn
	db    *pg.DB
	queue *queue.Queue
	user  auth.Principal
}

func newStand(b *testing.B, n int) *stand {
	server, err := testpg.Start(b.Context(), func(ctx context.Context, url string) error {
		_, err := pg.Migrate(ctx, url)
		return err
	}, "fsync=on", "full_page_writes=on", "shared_buffers=1GB", "max_wal_size=4GB", "autovacuum_naptime=15s")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := server.Stop(); err != nil {
			b.Error(err)
		}
	})
	urls := server.Database(b)
	s := &stand{b: b, user: auth.Principal{KeyID: "key-acme", TenantID: "acme", Role: auth.User}}
	if s.admin, err = pgx.Connect(b.Context(), urls.Admin); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.admin.Close(context.WithoutCancel(b.Context())) })
	if s.db, err = pg.Open(b.Context(), pg.Config{TenantURL: urls.API, SystemURL: urls.System, MaxConns: 10, Log: slog.New(slog.DiscardHandler)}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.db.Close)
	blobs, err := blob.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = blobs.Close() })
	s.queue = queue.New(queue.Config{Lease: time.Minute, Heartbeat: time.Second, Region: "r"}, s.db, blobs, wake.New(), slog.New(slog.DiscardHandler))
	s.tenant()
	s.fill(n, 0)
	return s
}

func (s *stand) exec(sql string) {
	s.b.Helper()
	if _, err := s.admin.Exec(s.b.Context(), sql); err != nil {
		s.b.Fatalf("%v\n%s", err, sql)
	}
}

func (s *stand) tenant() {
	s.exec(`INSERT INTO nofx.tenant (tenant_id, name) VALUES ('acme', 'acme');
		INSERT INTO nofx.project (tenant_id, id) VALUES ('acme', 'p');
		INSERT INTO nofx.api_key (id, tenant_id, name, role, hash) VALUES ('key-acme', 'acme', 'n', 'worker', 'x')`)
}

// fill makes n steps that succeeded 40 days ago, as their life leaves them; of
// two goes the second has later ids.
func (s *stand) fill(n, turn int) {
	runs := n / perRun
	for _, sql := range []string{
		`INSERT INTO nofx.run (id, tenant_id, project_id, goal, status, region, correlation_id, steps_left, next_seq, created_at, started_at, ended_at)
			SELECT 'run_0000000000000000%[3]d' || lpad(n::text, 9, '0'), 'acme', 'p', 'build and test the thing', 'succeeded', 'r', '', 0, 24,
				now() - interval '40 days', now() - interval '40 days', now() - interval '40 days' + n * interval '1 second'
			FROM generate_series(1, %[1]d) n`,
		`INSERT INTO nofx.step (id, tenant_id, run_id, idx, name, tool, driver, status, attempt, epoch, deps_left, depends_on, dependants, shares, inputs, command, reads, shown,
				resources, workspace, network, on_output, timeout_ms, grace_ms, artifacts, idempotent, tries, backoff_ms, idempotency_key, lane, spec, retry, outputs, verdict, created_at, ended_at)
			SELECT 'step' || substr(r.id, 4) || i, 'acme', r.id, i, 's' || i, 'bash', 'local', 'succeeded', 1, 1, 0, '{}', '{}', false,
				'{"command":"npm ci && npm test","cwd":"/workspace","timeout":120000}', '{"argv":["/bin/bash","-c","npm ci && npm test"],"cwd":"/workspace","env":{"LANG":"C.UTF-8"}}', 'shell', 'npm ci && npm test',
				'{"cpu":1,"memory_mb":512,"pids":256,"disk_mb":1024,"output_kb":1024}', 'step', 'none', 'truncate', 120000, 5000, '{}', false, 1, 0, r.id || ':s:b2df4802a9c2', 'bash',
				'{"name":"s","tool":"bash"}', '{"attempts":1}', ('{"command":"npm ci && npm test","stdout":"' || repeat('all is well ', 20) || '","stderr":"","exitCode":0,"success":true}')::json,
				'{"cause":"exit","exit_code":0,"attested":"kernel","usage":{"wall_ms":1200,"cpu_usec":900000}}', r.created_at, r.ended_at
			FROM nofx.run r, generate_series(1, 5) i WHERE r.id LIKE 'run_0000000000000000%[3]d%%'`,
		`INSERT INTO nofx.attempt (id, tenant_id, run_id, step_id, generation, number, epoch, status, worker_id, claim_id, claimed_at, lease_until, journal_n, output_bytes, driver_version, sandbox_id, started_at, ended_at, usage, verdict, driver)
			SELECT 'att' || substr(s.id, 5), 'acme', s.run_id, s.id, 1, 1, 1, 'ended', 'w', 'claim' || substr(s.id, 5), s.created_at, s.ended_at, 3, 240, '1', 'sandbox' || substr(s.id, 5), s.created_at, s.ended_at,
				'{"wall_ms":1200}', s.verdict, 'local' FROM nofx.step s WHERE s.id LIKE 'step_0000000000000000%[3]d%%'`,
		`INSERT INTO nofx.output_index (tenant_id, attempt_id, start, length, frames) SELECT 'acme', a.id, 0, 240, convert_to(repeat('all is well ', 20), 'UTF8') FROM nofx.attempt a WHERE a.id LIKE 'att_0000000000000000%[3]d%%'`,
		`INSERT INTO nofx.artifact (tenant_id, run_id, step_id, attempt_id, name, sha256, size, created_at)
			SELECT 'acme', a.run_id, a.step_id, a.id, 'report.json', encode(sha256(a.id::bytea), 'hex'), 100, a.ended_at FROM nofx.attempt a WHERE a.id LIKE 'att_0000000000000000%[3]d%%1'`,
		`INSERT INTO nofx.event (tenant_id, run_id, seq, type, payload, created_at) SELECT 'acme', r.id, q, 'run.started', '{"steps":5}', r.created_at FROM nofx.run r, generate_series(1, 3) q WHERE r.id LIKE 'run_0000000000000000%[3]d%%'`,
		`INSERT INTO nofx.event (tenant_id, run_id, seq, type, step_id, step_name, attempt, payload, created_at)
			SELECT 'acme', s.run_id, 3 + s.idx * 4 + q, 'step.finished', s.id, s.name, 1, '{"cause":"exit","exit_code":0}', s.created_at FROM nofx.step s, generate_series(0, 3) q WHERE s.id LIKE 'step_0000000000000000%[3]d%%'`,
		`INSERT INTO nofx.event_log (position, tenant_id, run_id, first_seq, last_seq) SELECT (SELECT position FROM nofx.event_head) + row_number() OVER (), 'acme', s.run_id, s.idx, s.idx FROM nofx.step s WHERE s.id LIKE 'step_0000000000000000%[3]d%%'`,
		`UPDATE nofx.event_head SET position = position + %[2]d`,
	} {
		s.exec(fmt.Sprintf(sql+"/* %[1]d %[2]d %[3]d */", runs, n, turn))
	}
	s.exec("ANALYZE")
	s.exec("CHECKPOINT")
}

// load claims and ends 200 steps a second by four workers until do returns, and
// gives how long each claim took that got some, while do worked and while not.
func (s *stand) load(do func(context.Context, *atomic.Bool)) (rest, busy []time.Duration) {
	const workers, batch = 4, 10
	ctx, cancel := context.WithCancel(s.b.Context())
	defer cancel()
	var mu sync.Mutex
	var working atomic.Bool
	var all sync.WaitGroup
	for i := range workers {
		w := s.worker(fmt.Sprintf("w%d", i))
		all.Go(func() {
			tick := time.NewTicker(workers * batch * time.Second / 200)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				s.submit(batch)
				works := working.Load()
				took, ok := w.turn(batch)
				mu.Lock()
				switch {
				case ok && works:
					busy = append(busy, took)
				case ok:
					rest = append(rest, took)
				}
				mu.Unlock()
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			if _, err := s.queue.Sequence(s.b.Context()); err != nil {
				s.b.Error(err)
			}
			pause(ctx, 500*time.Millisecond)
		}
	})
	do(ctx, &working)
	cancel()
	all.Wait()
	return rest, busy
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (s *stand) submit(n int) {
	steps := make([]plan.Step, n)
	for i := range steps {
		steps[i] = plan.Step{Name: fmt.Sprint("s", i), Tool: "bash", Driver: "local", Handler: "bash", Drivers: []plan.Choice{{Name: "local"}}, Inputs: json.RawMessage(`{"command":"true"}`), Reads: "shell", Shown: "true",
			OnOutput: step.OutputTruncate, Network: step.NetworkNone, Workspace: step.WorkspaceStep, TimeoutMS: 1000, GraceMS: 1000, OnOpen: wire.OnOpenWait, Retry: wire.Retry{Attempts: 1}}
	}
	if _, _, err := s.queue.Submit(s.b.Context(), s.user, queue.Submission{Goal: "g", Steps: steps, ProjectID: "p", RetryBudget: 10}); err != nil {
		s.b.Error(err)
	}
}

type host struct {
	s               *stand
	id, incarnation string
	who             auth.Principal
	claims          int
}

func (s *stand) worker(name string) *host {
	w := &host{s: s, incarnation: name + "-1", who: auth.Principal{KeyID: "key-acme", TenantID: "acme", Role: auth.Worker}}
	reg, err := s.queue.Register(s.b.Context(), w.who, wire.RegisterWorker{Name: name, Incarnation: w.incarnation, Version: "t", Slots: 100, Region: "r",
		Drivers: []wire.DriverInfo{{Name: "local", Version: "1", Healthy: true, Capabilities: []string{"cap.cpu", "cap.memory", "cap.pids", "cap.walltime", "cap.output", "net.none", "host", "files", "lease"}}}})
	if err != nil {
		s.b.Fatal(err)
	}
	w.id = reg.WorkerID
	return w
}

// turn claims some steps and ends them.
func (w *host) turn(most int) (took time.Duration, got bool) {
	w.claims++
	began := time.Now()
	out, err := w.s.queue.Claim(w.s.b.Context(), w.who, wire.ClaimRequest{WorkerID: w.id, Incarnation: w.incarnation, ClaimID: fmt.Sprint(w.incarnation, w.claims), Max: most, Drivers: []string{"local"}})
	took = time.Since(began)
	if err != nil || len(out.Leases) == 0 {
		if err != nil {
			w.s.b.Error(err)
		}
		return took, false
	}
	zero := 0
	batches := make([]wire.JournalBatch, len(out.Leases))
	for i, l := range out.Leases {
		batches[i] = wire.JournalBatch{Fence: l.Fence, Records: []wire.Record{
			{N: 1, Type: wire.RecordStarted, Started: &wire.StartedRecord{Driver: "local", DriverVersion: "1", SandboxID: "s"}},
			{N: 2, Type: wire.RecordOutput, Output: &wire.OutputRecord{Stream: wire.Stdout, Data: []byte("all is well\n")}},
			{N: 3, Type: wire.RecordVerdict, Verdict: &wire.VerdictRecord{Verdict: step.Verdict{Cause: step.CauseExit, ExitCode: &zero, Attested: step.AttestedKernel}}}}}
	}
	if _, err := w.s.queue.Journal(w.s.b.Context(), w.who, wire.JournalRequest{WorkerID: w.id, Incarnation: w.incarnation, Batches: batches}); err != nil {
		w.s.b.Error(err)
	}
	return took, true
}

// sizes logs what the tables have on the disk, with their indexes.
func (s *stand) sizes(when string) {
	rows, err := s.admin.Query(s.b.Context(), `SELECT c.relname || ' ' || pg_size_pretty(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'nofx' AND c.relkind = 'r' AND pg_total_relation_size(c.oid) > 1000000 ORDER BY pg_total_relation_size(c.oid) DESC`)
	if err != nil {
		s.b.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.b.Fatal(err)
	}
	s.b.Logf("%s: %v", when, out)
}
