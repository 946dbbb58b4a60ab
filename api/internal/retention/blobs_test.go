package retention_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/api/internal/blob"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/retention"
	"github.com/nofx-run/nofx/internal/testpg"
	"github.com/nofx-run/nofx/sdk/step"
)

var server *testpg.Server

func TestMain(m *testing.M) {
	testpg.Main(m, func(ctx context.Context, url string) error {
		_, err := pg.Migrate(ctx, url)
		return err
	}, &server)
}

// store is a folder of blobs and the database that refers to them.
type store struct {
	t       *testing.T
	admin   *pgx.Conn
	dir     string
	blobs   *blob.Dir
	service *retention.Service
}

func newStore(t *testing.T) *store {
	t.Helper()
	urls := server.Database(t)
	s := &store{t: t, dir: t.TempDir()}
	var err error
	if s.admin, err = pgx.Connect(t.Context(), urls.Admin); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.admin.Close(context.WithoutCancel(t.Context())) })
	db, err := pg.Open(t.Context(), pg.Config{TenantURL: urls.API, SystemURL: urls.System, MaxConns: 2, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if s.blobs, err = blob.Open(s.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.blobs.Close() })
	s.service = &retention.Service{DB: db, Blobs: s.blobs, Keep: retention.Keep{Runs: 30 * 24 * time.Hour}, Observer: &counted{}, Log: slog.New(slog.DiscardHandler)}
	s.exec(`UPDATE nofx.lease_clock SET ticked_at = now(), hold_until = now();
		INSERT INTO nofx.tenant (tenant_id, name) VALUES ('acme', 'acme');
		INSERT INTO nofx.project (tenant_id, id) VALUES ('acme', 'p');
		INSERT INTO nofx.run (id, tenant_id, project_id, goal, region, correlation_id, steps_left, status, ended_at) VALUES ('run_1', 'acme', 'p', 'g', 'r', '', 0, 'succeeded', now());
		INSERT INTO nofx.step (id, tenant_id, run_id, idx, name, tool, driver, status, deps_left, depends_on, dependants, shares, inputs, command, reads, shown,
			resources, workspace, network, on_output, timeout_ms, grace_ms, artifacts, idempotent, tries, backoff_ms, idempotency_key, ended_at)
			VALUES ('step_1', 'acme', 'run_1', 0, 's', 't', 'local', 'succeeded', 0, '{}', '{}', true, '{}', '{}', 'shell', '', '{}', 'run', 'none', 'truncate', 1, 1, '{}', false, 1, 0, 'k', now());
		INSERT INTO nofx.attempt (id, tenant_id, run_id, step_id, generation, number, epoch, worker_id, claim_id, lease_until, status, ended_at, verdict)
			VALUES ('att_1', 'acme', 'run_1', 'step_1', 1, 1, 1, 'w', 'c', now(), 'ended', now(), '{}')`)
	return s
}

func (s *store) exec(sql string) {
	s.t.Helper()
	if _, err := s.admin.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatalf("%v\n%s", err, sql)
	}
}

func hash(body string) string {
	h := sha256.Sum256([]byte(body))
	return hex.EncodeToString(h[:])
}

// upload puts bytes whose last one came some time ago.
func (s *store) upload(body string, ago time.Duration) (sum string) {
	s.t.Helper()
	sum = hash(body)
	if err := s.blobs.Put(s.t.Context(), "acme", sum, int64(len(body)), 1<<20, strings.NewReader(body)); err != nil {
		s.t.Fatal(err)
	}
	s.touch(filepath.Join("artifacts", "acme", sum[:2], sum), ago)
	return sum
}

func (s *store) touch(path string, ago time.Duration) {
	s.t.Helper()
	at := time.Now().Add(-ago)
	if err := os.Chtimes(filepath.Join(s.dir, path), at, at); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) artifact(name, sum string) {
	s.t.Helper()
	s.exec(`INSERT INTO nofx.artifact (tenant_id, run_id, step_id, attempt_id, name, sha256, size) VALUES ('acme', 'run_1', 'step_1', 'att_1', '` + name + `', '` + sum + `', 1)`)
}

// collect collects all of the folder.
func (s *store) collect() {
	s.t.Helper()
	for range blob.Shares {
		if err := s.service.Collect(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *store) has(sum string) bool {
	s.t.Helper()
	_, err := s.blobs.Has("acme", sum)
	if err != nil && !step.Is(err, step.KindNotFound) {
		s.t.Fatal(err)
	}
	return err == nil
}

// Bytes go when nothing has referred to them for a day: never while an artifact
// does, nor before a verdict of the day of the upload can have named them.
func TestCollectBlobs(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	orphan, late, kept, twice, ended := s.upload("orphan", 26*time.Hour), s.upload("late", 24*time.Hour), s.upload("kept", 900*time.Hour), s.upload("twice", 900*time.Hour), s.upload("ended", 900*time.Hour)
	s.artifact("kept", kept)
	s.artifact("twice-1", twice)
	s.artifact("twice-2", twice)
	s.artifact("ended", ended)
	layer, outdated, both := s.upload("layer", 900*time.Hour), s.upload("outdated", 900*time.Hour), s.upload("both", 900*time.Hour)
	s.artifact("both", both)
	for i, sum := range []string{layer, outdated, both} {
		s.exec(fmt.Sprintf(`INSERT INTO nofx.workspace_layer (tenant_id, run_id, seq, attempt_id, sha256, size, bytes, full_one, removed_at)
			VALUES ('acme', 'run_1', %d, 'att_1', '%s', 1, 1, true, CASE WHEN %[1]d = 2 THEN now() END)`, i+1, sum))
	}
	s.exec("UPDATE nofx.artifact SET removed_at = now() WHERE name IN ('twice-1', 'ended', 'both')")
	s.collect()
	for name, c := range map[string]struct {
		sum  string
		want bool
	}{"orphan": {orphan, false}, "late": {late, true}, "kept": {kept, true}, "twice": {twice, true}, "ended": {ended, false},
		"layer": {layer, true}, "outdated layer": {outdated, false}, "layer with the bytes of an artifact that has ended": {both, true}} {
		if got := s.has(c.sum); got != c.want {
			t.Errorf("%s: there %v", name, got)
		}
	}
	s.artifact("late", late) // the verdict comes
	s.touch(filepath.Join("artifacts", "acme", late[:2], late), 48*time.Hour)
	s.collect()
	if !s.has(late) {
		t.Error("an upload lost its bytes though a verdict named them within a day")
	}
}

// With its run go an attempt's artifacts and its output.
func TestCollectAfterRemoval(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	sum := s.upload("report", 900*time.Hour)
	s.artifact("report", sum)
	if err := s.blobs.Append("acme", "att_1", 0, []byte("output")); err != nil {
		t.Fatal(err)
	}
	segment := filepath.Join("output", "acme", "_1", "att_1")
	s.touch(segment, 900*time.Hour)
	there := func() bool {
		_, err := os.Stat(filepath.Join(s.dir, segment))
		return err == nil
	}
	s.collect()
	if !s.has(sum) || !there() {
		t.Fatal("it went before its run")
	}
	s.exec("UPDATE nofx.run SET ended_at = now() - interval '31 days'")
	if err := s.service.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.collect()
	if s.has(sum) || there() {
		t.Errorf("artifact there %v, segment there %v", s.has(sum), there())
	}
}

// In the lease after an outage nothing goes, and nothing ever by the word of
// another installation's database.
func TestCollectWaits(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	sum := s.upload("orphan", 100*time.Hour)
	s.exec("UPDATE nofx.lease_clock SET hold_until = now() + interval '1 minute'")
	s.collect()
	if !s.has(sum) {
		t.Fatal("it went in the lease after an outage")
	}
	s.exec("UPDATE nofx.lease_clock SET hold_until = now()")
	if err := s.blobs.Belongs("inst_other"); err != nil {
		t.Fatal(err)
	}
	if err := s.service.Collect(t.Context()); !step.Is(err, step.KindConflict) || !s.has(sum) {
		t.Fatalf("another installation's folder: %v", err)
	}
	if err := os.Remove(filepath.Join(s.dir, "installation")); err != nil {
		t.Fatal(err)
	}
	s.collect()
	if s.has(sum) {
		t.Error("positive control: it is still there")
	}
}
