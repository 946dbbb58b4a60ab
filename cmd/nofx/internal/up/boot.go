package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/nofx-run/nofx/cmd/nofx/internal/devcert"
	"github.com/nofx-run/nofx/cmd/nofx/internal/pglocal"
	"github.com/nofx-run/nofx/cmd/nofx/internal/supervise"
	"github.com/nofx-run/nofx/internal/failpoint"
)

const (
	postgresStart = 60 * time.Second // crash recovery included
	apiStart      = 30 * time.Second
	workerStart   = 60 * time.Second
	database      = "postgres"
	tenant        = "default"
)

func (s *System) boot(ctx context.Context) error {
	for _, stage := range []func(context.Context) error{
		s.endStale, s.startPostgres, s.migrate, s.startAPI, s.startDaemon,
	} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	return nil
}

// endStale ends what an earlier `nofx up` on this folder left running when it
// died suddenly. The daemon is safe to kill at any time.
func (s *System) endStale(ctx context.Context) error {
	for _, p := range []struct {
		name string
		how  supervise.Signalling
	}{
		{"nofxd", supervise.Signalling{{Signal: syscall.SIGTERM, Wait: 2 * time.Second}, {Signal: syscall.SIGKILL, Wait: 10 * time.Second}}},
		{"nofx-api", supervise.Signalling{{Signal: syscall.SIGTERM, Wait: 5 * time.Second}, {Signal: syscall.SIGKILL, Wait: 10 * time.Second}}},
		{"postgres", supervise.Signalling{{Signal: syscall.SIGINT, Wait: 15 * time.Second}, {Signal: syscall.SIGQUIT, Wait: 10 * time.Second}, {Signal: syscall.SIGKILL, Wait: 10 * time.Second}}},
	} {
		found, err := supervise.EndStale(ctx, s.path("run"), p.name, p.how)
		if err != nil {
			return err
		}
		if found {
			s.progress("ended %s of an earlier run", p.name)
		}
	}
	return nil
}

func (s *System) startPostgres(ctx context.Context) error {
	if err := s.shortSocket(); err != nil {
		return err
	}
	fresh, err := s.pg.Init(ctx)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if fresh {
		// Keys of an earlier database open nothing in a new one.
		for _, name := range []string{ClientEnv, "worker.token"} {
			if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	child := s.spawn(supervise.Spec{
		Name:    "postgres",
		Command: func() (*exec.Cmd, error) { return s.pg.Serve(), nil },
		Stop:    syscall.SIGINT, // fast shutdown
		Grace:   30 * time.Second,
		Abort:   syscall.SIGQUIT, // at once, with crash recovery at the next start
	})
	if err := s.until(ctx, postgresStart, "postgres", child, func(ctx context.Context) error {
		return s.pg.Ready(ctx, s.socketDir)
	}); err != nil {
		return err
	}
	s.progress("postgres is up")
	return nil
}

// shortSocket finds a path to the socket's folder that fits into a socket
// address, and has no comma, which clients of Postgres take for the end of a
// host: the folder itself, else a link to it in /run.
func (s *System) shortSocket() error {
	dir := s.pg.SocketDir()
	if len(pglocal.SocketPath(dir)) <= pglocal.MaxSocketPath && !strings.Contains(dir, ",") {
		s.socketDir = dir
		return nil
	}
	link := filepath.Join("/run", "nofx-"+s.inst.ID)
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(dir, link); err != nil {
		return err
	}
	s.socketDir = link
	return nil
}

// keysetFile has the keys with which the API seals what is sensitive.
const keysetFile = "keyset.json"

// migrate brings the schema up to date and makes the keys that are missing.
func (s *System) migrate(ctx context.Context) error {
	if _, err := s.admin(ctx, "migrate"); err != nil {
		return err
	}
	if _, err := os.Stat(s.path(keysetFile)); errors.Is(err, os.ErrNotExist) {
		if _, err := s.admin(ctx, "keys", "new", s.path(keysetFile)); err != nil {
			return err
		}
	}
	env, err := ReadClientEnv(s.path(ClientEnv))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if s.endpoint.Key = env.Key; env.Key == "" {
		if s.endpoint.Key, err = s.admin(ctx, "keys", "create", "--tenant", tenant, "--name", "nofx-up", "--role", "operator"); err != nil {
			return err
		}
		// Kept at once, so that a failure later in the start does not lose it.
		if err := writeClientEnv(s.cfg.Dir, s.endpoint); err != nil {
			return err
		}
	}
	token := s.path("worker.token")
	if _, err := os.Stat(token); err == nil {
		return nil
	}
	key, err := s.admin(ctx, "keys", "create", "--tenant", tenant, "--name", "nofx-up-worker", "--role", "worker")
	if err != nil {
		return err
	}
	return renameio.WriteFile(token, []byte(key+"\n"), 0o600)
}

// admin runs a nofx-api subcommand as the database's owner and returns what
// it prints.
func (s *System) admin(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.binary("nofx-api"), args...)
	cmd.Env = s.apiEnv("")
	cmd.Dir = s.cfg.Dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return "", fmt.Errorf("nofx-api %s: %w: %s", args[0], err, lines[len(lines)-1])
	}
	return strings.TrimSpace(string(out)), nil
}

func (s *System) apiEnv(listen string) []string {
	env := []string{
		"PATH=/usr/bin:/bin", "TZ=UTC", "HOME=" + s.cfg.Dir,
		"NOFX_ADMIN_DATABASE_URL=" + pglocal.URL(s.socketDir, "postgres", database),
		"NOFX_DATABASE_URL=" + pglocal.URL(s.socketDir, "nofx_api", database),
		"NOFX_SYSTEM_DATABASE_URL=" + pglocal.URL(s.socketDir, "nofx_system", database),
		"NOFX_BLOB_DIR=" + s.path("blobs"),
		"NOFX_KEYSET_FILE=" + s.path(keysetFile),
	}
	if listen == "" {
		return env
	}
	env = append(append(env, failpoint.Environ()...), "NOFX_LISTEN="+listen, "NOFX_TLS_CERT_FILE="+s.certs.Cert, "NOFX_TLS_KEY_FILE="+s.certs.Key)
	// What the API waits for may be shortened, so that tests of lost workers and
	// missing drivers end in a short time; other manifests can be tried, and
	// alerts to receivers on this host.
	for _, key := range []string{"NOFX_LEASE", "NOFX_HEARTBEAT", "NOFX_DRIVER_WAIT", "NOFX_HANDLERS_DIR", "NOFX_WORKSPACE_KEEP", "NOFX_ALERT_ALLOW", "NOFX_ALERT_CA_FILE", "NOFX_TICK_TOKEN", "NOFX_RETAIN_RUNS", "NOFX_RETAIN_ARTIFACTS", "NOFX_QUEUE_PRESSURE"} {
		if v := os.Getenv(key); v != "" {
			env = append(env, key+"="+v)
		}
	}
	return env
}

func (s *System) startAPI(ctx context.Context) error {
	host, _, err := net.SplitHostPort(s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", s.cfg.Listen, err)
	}
	if s.certs, err = devcert.Ensure(s.path("tls"), []string{host}, time.Now()); err != nil {
		return err
	}
	if err := os.MkdirAll(s.path("blobs"), 0o700); err != nil {
		return err
	}
	var listen address // known for good once the first start has listened
	listen.set(s.cfg.Listen)
	child := s.spawn(supervise.Spec{
		Name: "nofx-api",
		Command: func() (*exec.Cmd, error) {
			cmd := exec.CommandContext(context.Background(), s.binary("nofx-api"), "serve")
			cmd.Dir, cmd.Env = s.cfg.Dir, s.apiEnv(listen.get())
			return cmd, nil
		},
		Stop:  syscall.SIGTERM,
		Grace: 15 * time.Second,
	})
	if s.endpoint.URL, err = s.listening(ctx, child); err != nil {
		return err
	}
	u, err := url.Parse(s.endpoint.URL)
	if err != nil {
		return fmt.Errorf("nofx-api listens on %q: %w", s.endpoint.URL, err)
	}
	listen.set(u.Host)
	s.endpoint.URL = reachable(u)
	s.endpoint.CAFile = s.certs.CA
	probe, err := s.cfg.Dial(s.endpoint)
	if err != nil {
		return err
	}
	if err := s.until(ctx, apiStart, "nofx-api", child, func(ctx context.Context) error {
		health, err := probe.Health(ctx)
		if err == nil && !health.Ready {
			err = fmt.Errorf("not ready: %v", health.Checks)
		}
		return err
	}); err != nil {
		return err
	}
	s.progress("nofx-api is up at %s", s.endpoint.URL)
	return writeClientEnv(s.cfg.Dir, s.endpoint)
}

// reachable is where clients on this machine reach an API that listens at u:
// all of its addresses are none that one connects to, or that a certificate is
// for.
func reachable(u *url.URL) string {
	if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
		u.Host = net.JoinHostPort("127.0.0.1", u.Port())
	}
	return u.String()
}

// listening waits for the line in the API's log that says where it listens.
func (s *System) listening(ctx context.Context, child *running) (string, error) {
	var addr string
	var offset int64
	err := s.until(ctx, apiStart, "nofx-api", child, func(ctx context.Context) error {
		n, start := child.Starts()
		if n == 0 {
			return errors.New("starting")
		}
		if offset == 0 {
			offset = start
		}
		var err error
		offset, err = supervise.ReadLines(child.LogPath(), offset, func(line []byte) {
			var entry struct{ Msg, Addr string }
			if json.Unmarshal(line, &entry) == nil && entry.Msg == "listening" && entry.Addr != "" {
				addr = entry.Addr
			}
		})
		if err == nil && addr == "" {
			err = errors.New("it has not said where it listens")
		}
		return err
	})
	return addr, err
}

func (s *System) binary(name string) string { return filepath.Join(s.cfg.BinDir, name) }
