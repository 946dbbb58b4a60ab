package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/internal/testclock"
)

// Postgres is the fleet's database server. It listens on loopback, with a
// password that is made for the fleet.
type Postgres struct {
	*Process
	dir      string
	bin      string
	port     int
	password string
	user     *syscall.Credential
	clock    *testclock.Clock
}

func newPostgres(ctx context.Context, dir string, note func(name, what string)) (*Postgres, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return nil, errors.New("no Postgres below /usr/lib/postgresql: install the package postgresql")
	}
	slices.Sort(found)
	who, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(who.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(who.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	p := &Postgres{dir: dir, bin: filepath.Dir(found[len(found)-1]), password: rand.Text(), user: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if p.port, err = freePort(); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if p.clock, err = testclock.New(dir); err != nil {
		return nil, err
	}
	secret := filepath.Join(dir, "password")
	if err := os.WriteFile(secret, []byte(p.password+"\n"), 0o600); err != nil {
		return nil, err
	}
	for _, path := range []string{dir, secret} {
		if err := os.Chown(path, int(uid), int(gid)); err != nil {
			return nil, err
		}
	}
	initdb := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), "-D", p.data(), "-U", "postgres",
		"--auth=scram-sha-256", "--pwfile="+secret, "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
	initdb.Dir = dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	p.Process = newProcess("postgres", filepath.Join(filepath.Dir(dir), "postgres.log"), note, p.serve)
	p.ready = p.answers
	return p, nil
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// serve is the server's command. It is durable against the death of its own
// processes, which is all that is tried; nobody pulls this machine's plug.
func (p *Postgres) serve() *exec.Cmd {
	args := []string{"-D", p.data(), "-k", p.dir}
	for _, setting := range []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(p.port), "unix_socket_permissions=0700",
		"fsync=off", "full_page_writes=off", "max_connections=100", "shared_buffers=64MB", "jit=off",
		"cluster_name=nofx_fleet", "timezone=UTC", "log_line_prefix=%m [%p] ", "autovacuum_naptime=5s",
		// What a backend of a dead server's waits for is told soon.
		"tcp_user_timeout=10000", "client_connection_check_interval=2s",
	} {
		args = append(args, "-c", setting)
	}
	cmd := exec.CommandContext(context.Background(), filepath.Join(p.bin, "postgres"), args...)
	cmd.Dir = p.dir
	cmd.Env = append(p.clock.Env(), "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	return cmd
}

// SetClock steps the server's clock to so much ahead of the machine's.
func (p *Postgres) SetClock(ahead time.Duration) error { return p.clock.Set(ahead) }

func (p *Postgres) addr() string { return "127.0.0.1:" + strconv.Itoa(p.port) }

// url is how role reaches the database at addr.
func (p *Postgres) url(role, addr string) string {
	return (&url.URL{Scheme: "postgres", User: url.UserPassword(role, p.password), Host: addr, Path: "/postgres", RawQuery: "sslmode=disable"}).String()
}

// Admin is the URL of the database as its owner, past every link.
func (p *Postgres) Admin() string { return p.url("postgres", p.addr()) }

func (p *Postgres) answers(ctx context.Context) error {
	return p.exec(ctx, "SELECT 1")
}

func (p *Postgres) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, p.Admin())
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// Backends are the processes that serve the APIs now.
func (p *Postgres) Backends() []int {
	postmaster := p.Pid()
	if postmaster == 0 {
		return nil
	}
	var pids []int
	for _, pid := range children(postmaster) {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && (strings.Contains(string(args), " nofx_api ") || strings.Contains(string(args), " nofx_system ")) {
			pids = append(pids, pid)
		}
	}
	return pids
}
