package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/internal/testhost"
	"github.com/nofx-run/nofx/plugins/local"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// BenchmarkIdleStep is one step from POST to its terminal event, which follows
// the commit of its verdict, on a system that does nothing else. In turns with
// it is what it could not do without: a bare sandbox, one claim and one finish
// on the same Postgres, and nothing around them.
func BenchmarkIdleStep(b *testing.B) {
	const warmup, rounds = 20, 200
	const rest = 50 * time.Millisecond
	s := harness.Start(b)
	confined(b, s)
	box, queue := newBareBox(b, s.Bin), newBareQueue(b, s, warmup+rounds)
	parts := map[string]*Sample{"sandbox": {}, "claim": {}, "finish": {}}
	timed := func(name string, f func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			begun := time.Now()
			err := f(ctx)
			parts[name].Times = append(parts[name].Times, time.Since(begun))
			return err
		}
	}
	claim, sandbox, end := timed("claim", queue.claim), timed("sandbox", box.run), timed("finish", queue.finish)
	standing := Turns{Warmup: warmup, Rounds: rounds, Rest: rest, Ours: []func() time.Duration{used(s)}}.Run(b,
		Contender{Name: "step", Run: func(ctx context.Context) error { return finish(ctx, s, trueStep("a")) }},
		Contender{Name: "parts", Lacks: "API, TLS, daemon, ledger, journal, its own cgroups, events' readers, audit, tenants", Run: func(ctx context.Context) error {
			return errors.Join(claim(ctx), sandbox(ctx), end(ctx))
		}},
		Contender{Name: "exec", Lacks: "all of it", Run: func(ctx context.Context) error { return exec.CommandContext(ctx, "/bin/true").Run() }},
	)
	for _, name := range []string{"sandbox", "claim", "finish"} {
		standing.Add(name, Sample{Times: parts[name].Times[warmup:]})
	}
	standing.Report(queue.settings, "step: POST /api/runs to the terminal event over the event stream. parts: the sum of sandbox, claim and finish, which are below it.")
	standing.Ratio("step", "parts")
	standing.Ratio("step", "exec")
	memory(b, s)
}

// confined fails unless steps run with what they are timed with: a filter, no
// capability, no way to new privileges.
func confined(b *testing.B, s *harness.System) {
	b.Helper()
	r := s.Nofx("", "exec", "--", "/bin/grep", "-cE", "^(Seccomp:\t2|CapEff:\t0000000000000000|CapBnd:\t0000000000000000|NoNewPrivs:\t1)$", "/proc/self/status")
	if r.Code != 0 || r.Stdout != "4\n" {
		b.Fatalf("a step is not confined as it should be: %+v", r)
	}
}

// bareBox makes sandboxes as nofxd has them made, through the driver's gRPC, in
// control groups that are there already.
type bareBox struct {
	d    driver.Driver
	spec driver.Spec
	n    atomic.Int64
}

func newBareBox(b *testing.B, bin string) *bareBox {
	b.Helper()
	d := local.New()
	b.Cleanup(d.Close)
	box := &bareBox{d: drivertest.Connect(b, d), spec: driver.Spec{Tags: driver.Tags{Owner: "bench", ID: "x"}, Network: step.NetworkNone,
		Until: driver.After(time.Hour), Resources: step.Resources{CPU: 1, MemoryMB: 512, Pids: 256}}}
	config, err := json.Marshal(local.Config{StateDir: filepath.Join(b.TempDir(), "state"), Supervisor: filepath.Join(bin, "nofx-supervisor"), RootFS: local.RootHost})
	if err == nil {
		err = box.d.Configure(b.Context(), config)
	}
	if err != nil {
		b.Fatal(err)
	}
	testhost.New().Fill(b, &box.spec)
	return box
}

func (x *bareBox) run(ctx context.Context) error {
	spec := x.spec
	spec.ID = fmt.Sprint("bare-", x.n.Add(1))
	h, err := x.d.Create(ctx, spec)
	if err != nil {
		return err
	}
	code := -1
	err = x.d.Exec(ctx, h, driver.ExecSpec{ID: "main", Argv: []string{"/bin/true"}, Env: []string{"PATH=/usr/bin:/bin"}, OutputLimit: 1 << 20, Timeout: time.Minute},
		func(e driver.ExecEvent) error {
			if e.Exit != nil {
				code = e.Exit.Code
			}
			return nil
		})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	return errors.Join(err, x.d.Destroy(ctx, h))
}

// bareQueue is the least of a queue with leases and events: two tables, one
// claim, one finish that compares the epoch, each committed to disk.
type bareQueue struct {
	conn     *pgx.Conn
	settings string
	taken    int64
}

func newBareQueue(b *testing.B, s *harness.System, steps int) *bareQueue {
	b.Helper()
	url, err := s.OwnerURL()
	if err != nil {
		b.Fatal(err)
	}
	q := &bareQueue{}
	if q.conn, err = pgx.Connect(b.Context(), url); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = q.conn.Close(context.WithoutCancel(b.Context())) })
	for _, text := range []string{
		"CREATE SCHEMA bench",
		"CREATE TABLE bench.step (id bigint PRIMARY KEY, status text NOT NULL, worker text, epoch int NOT NULL DEFAULT 0, lease_until timestamptz, verdict json)",
		"CREATE INDEX ON bench.step (id) WHERE status = 'queued'",
		"CREATE TABLE bench.event (step bigint, seq int, type text NOT NULL, at timestamptz NOT NULL DEFAULT now(), payload json, PRIMARY KEY (step, seq))",
		fmt.Sprintf("INSERT INTO bench.step SELECT n, 'queued' FROM generate_series(1, %d) n", steps),
		"ANALYZE bench.step",
	} {
		if _, err := q.conn.Exec(b.Context(), text); err != nil {
			b.Fatalf("%v: %s", err, text)
		}
	}
	if err := q.conn.QueryRow(b.Context(), "SELECT format('Postgres %s: fsync %s, synchronous_commit %s, full_page_writes %s', current_setting('server_version'), "+
		"current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes'))").Scan(&q.settings); err != nil {
		b.Fatal(err)
	}
	return q
}

func (q *bareQueue) claim(ctx context.Context) error {
	return q.conn.QueryRow(ctx, `UPDATE bench.step SET status = 'running', worker = 'w', epoch = epoch + 1, lease_until = now() + interval '90 s'
		WHERE id = (SELECT id FROM bench.step WHERE status = 'queued' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id`).Scan(&q.taken)
}

func (q *bareQueue) finish(ctx context.Context) error {
	var all pgx.Batch // one transaction, one round trip
	all.Queue(`UPDATE bench.step SET status = 'succeeded', verdict = '{"cause":"exit","exit_code":0}' WHERE id = $1 AND epoch = 1`, q.taken)
	for i, kind := range []string{"step.started", "step.finished", "run.succeeded"} {
		all.Queue(`INSERT INTO bench.event (step, seq, type, payload) VALUES ($1, $2, $3, '{"exit_code":0}')`, q.taken, i, kind)
	}
	return q.conn.SendBatch(ctx, &all).Close()
}
