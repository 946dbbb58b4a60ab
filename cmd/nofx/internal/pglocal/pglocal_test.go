package pglocal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/cmd/nofx/internal/pglocal"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == pglocal.EnterCommand {
		fmt.Fprintln(os.Stderr, pglocal.Enter(os.Args[2:]))
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// The folder is below one that only root may enter, and the server still runs
// in it as another user; a second Init keeps what the first made.
func TestClusterInAFolderOfRoot(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pg")
	if err := os.Chmod(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	cluster := open(t, dir)
	fresh, err := cluster.Init(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !fresh {
		t.Error("a new cluster is not called new")
	}

	stop := serve(t, cluster)
	conn := connect(t, cluster, "postgres")
	if _, err := conn.Exec(t.Context(), "CREATE ROLE nofx_api LOGIN; CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)"); err != nil {
		t.Fatal(err)
	}
	var fsync, addresses, user string
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('fsync'), current_setting('listen_addresses'), current_user").Scan(&fsync, &addresses, &user); err != nil {
		t.Fatal(err)
	}
	if fsync != "on" || addresses != "" || user != "postgres" {
		t.Errorf("fsync %q, listen_addresses %q, user %q", fsync, addresses, user)
	}
	api := connect(t, cluster, "nofx_api")
	if err := api.QueryRow(t.Context(), "SELECT current_user").Scan(&user); err != nil || user != "nofx_api" {
		t.Errorf("as nofx_api: %q, %v", user, err)
	}
	hangUp(t, conn, api)
	stop()

	if fresh, err := cluster.Init(t.Context()); err != nil || fresh {
		t.Fatalf("second Init: fresh %v, %v", fresh, err)
	}
	stop = serve(t, cluster)
	conn = connect(t, cluster, "postgres")
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT n FROM kept").Scan(&n); err != nil || n != 42 {
		t.Errorf("after a restart: %d, %v", n, err)
	}
	hangUp(t, conn)
	stop()
}

// Only root logs in: the server's own user does not, nor anybody else.
func TestOnlyRootLogsIn(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pg")
	cluster := open(t, dir)
	if _, err := cluster.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := serve(t, cluster)
	defer stop()
	info, err := os.Stat(cluster.SocketDir())
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if info.Mode().Perm() != 0o700 || owner.Uid == 0 {
		t.Errorf("socket folder has mode %v and owner %d", info.Mode().Perm(), owner.Uid)
	}

	// Let the server's user reach the socket, which t.TempDir's mode forbids,
	// to see that log-in itself refuses it.
	for d := filepath.Dir(dir); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	psql := exec.CommandContext(t.Context(), "psql", pglocal.URL(cluster.SocketDir(), "postgres", "postgres"), "-c", "SELECT 1")
	psql.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	psql.Dir = "/"
	if out, err := psql.CombinedOutput(); err != nil {
		t.Fatalf("control: root: %v: %s", err, out)
	}
	again := exec.CommandContext(t.Context(), psql.Path, psql.Args[1:]...)
	again.Env, again.Dir = psql.Env, "/"
	again.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	out, err := again.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "authentication failed") {
		t.Errorf("the server's own user: %v: %s", err, out)
	}
}

// A crash in the middle of initdb does not block the next start.
func TestInitAfterACrash(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pg")
	if err := os.MkdirAll(filepath.Join(dir, "data", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if fresh, err := open(t, dir).Init(t.Context()); err != nil || !fresh {
		t.Fatalf("fresh %v, %v", fresh, err)
	}
}

func TestEnterRefusesRoot(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"/x", "0", "5", "/bin/true"}, {"/x", "5", "0", "/bin/true"}, {"/x", "five", "5", "/bin/true"}} {
		if err := pglocal.Enter(args); err == nil {
			t.Errorf("Enter(%q) came back without an error", args)
		}
	}
}

func open(t *testing.T, dir string) *pglocal.Cluster {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := pglocal.Open(dir, self)
	if err != nil {
		t.Fatal(err)
	}
	return cluster
}

// serve starts the server, waits until it answers, and returns what stops it.
func serve(t *testing.T, cluster *pglocal.Cluster) (stop func()) {
	t.Helper()
	cmd := cluster.Serve()
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("postgres: %v: %s", err, log.String())
		}
	}
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cluster.Ready(ctx, cluster.SocketDir())
		if err == nil {
			return stop
		}
		select {
		case end := <-ended:
			ended <- end
			t.Fatalf("postgres ended: %v: %s", end, log.String())
		case <-ctx.Done():
			t.Fatal(errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

func connect(t *testing.T, cluster *pglocal.Cluster, role string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pglocal.URL(cluster.SocketDir(), role, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func hangUp(t *testing.T, conns ...*pgx.Conn) {
	t.Helper()
	for _, c := range conns {
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Clients of Postgres do not take a plus for a space.
func TestURLOfAnyFolder(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/a/run", "/a b/c  d/run", `/a+b%20c&d=e?f#g'"h:@\/run`, "/ä/run"} {
		cfg, err := pgx.ParseConfig(pglocal.URL(dir, "nofx_api", "nofx"))
		if err != nil || cfg.Host != dir || cfg.User != "nofx_api" || cfg.Database != "nofx" {
			t.Errorf("%s: %q %q %q, %v", dir, cfg.Host, cfg.User, cfg.Database, err)
		}
	}
}
