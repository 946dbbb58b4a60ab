package testpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/internal/testclock"
)

const (
	template  = "nofx_template"
	startWait = 60 * time.Second
	stopWait  = 20 * time.Second
)

// Server is one running Postgres.
type Server struct {
	dir      string
	settings []string
	clock    *testclock.Clock // nil = the machine's
	process  *os.Process
	log      *os.File
	done     chan struct{} // closed when the process has ended
	last     atomic.Int64  // number of the newest test's database
}

// Start makes a server in a folder of its own and migrates its template
// database. settings, such as "a=b", are added to the server's. Stop ends it.
func Start(ctx context.Context, migrate func(ctx context.Context, ownerURL string) error, settings ...string) (*Server, error) {
	return run(ctx, false, migrate, settings)
}

// StartWithClock is Start of a server whose clock SetClock steps.
func StartWithClock(ctx context.Context, migrate func(ctx context.Context, ownerURL string) error, settings ...string) (*Server, error) {
	return run(ctx, true, migrate, settings)
}

func run(ctx context.Context, clock bool, migrate func(ctx context.Context, ownerURL string) error, settings []string) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "nofx-testpg-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, settings: settings, done: make(chan struct{})}
	if clock {
		if s.clock, err = testclock.New(dir); err != nil {
			return nil, errors.Join(err, s.Stop())
		}
	}
	if err := s.start(ctx, bin, migrate); err != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "log")) // absent before the start
		return nil, errors.Join(fmt.Errorf("start Postgres: %w\n%s", err, text), s.Stop())
	}
	return s, nil
}

// binaries is the folder of the newest installed Postgres.
func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", errors.New("no Postgres below /usr/lib/postgresql: install the package postgresql")
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
}

// credential is the unprivileged user that Postgres insists on; nil when the
// tests run as one already.
func credential() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

func (s *Server) start(ctx context.Context, bin string, migrate func(context.Context, string) error) error {
	cred, err := credential()
	if err != nil {
		return err
	}
	if cred != nil {
		if err := os.Chown(s.dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return err
		}
	}
	data := filepath.Join(s.dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres",
		"--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
	initdb.Dir = s.dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		return err
	}
	if err := s.launch(filepath.Join(bin, "postgres"), data, cred); err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := s.exec(ctx, "CREATE DATABASE "+template); err != nil {
		return err
	}
	return migrate(ctx, s.url(template, "postgres"))
}

// launch starts the server. It gets a fast-shutdown signal when the thread
// that started it ends, so that thread waits for it.
func (s *Server) launch(program, data string, cred *syscall.Credential) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.done)
		args := []string{"-D", data, "-k", s.dir,
			"-c", "listen_addresses=", "-c", "fsync=off", "-c", "full_page_writes=off",
			"-c", "max_connections=200", "-c", "shared_buffers=64MB", "-c", "cluster_name=nofx_test",
			"-c", "unix_socket_permissions=0700", "-c", "jit=off", "-c", "autovacuum_naptime=5s"}
		for _, setting := range s.settings {
			args = append(args, "-c", setting)
		}
		cmd := exec.CommandContext(context.Background(), program, args...)
		cmd.Dir = s.dir
		cmd.Stdout, cmd.Stderr = s.log, s.log
		if s.clock != nil {
			cmd.Env = append(cmd.Environ(), s.clock.Env()...)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Pdeathsig: syscall.SIGINT, Setpgid: true}
		err := cmd.Start()
		s.process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
	}()
	return <-started
}

func (s *Server) ready(ctx context.Context) error {
	for {
		err := s.exec(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-s.done:
			pause.Stop()
			return errors.New("it ended at once")
		case <-ctx.Done():
			pause.Stop()
			return errors.Join(ctx.Err(), err)
		case <-pause.C:
		}
	}
}

// exec runs statements as the superuser in the database postgres.
func (s *Server) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.url("postgres", "postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

func (s *Server) url(database, role string) string {
	q := url.Values{"host": {s.dir}, "user": {role}, "sslmode": {"disable"}}
	return "postgres:///" + database + "?" + strings.ReplaceAll(q.Encode(), "%2F", "/")
}

// SetClock steps the clock of a server that was started with one to so much ahead
// of the machine's.
func (s *Server) SetClock(ahead time.Duration) error { return s.clock.Set(ahead) }

// Pid is the id of the server's first process, the parent of all its others.
func (s *Server) Pid() int { return s.process.Pid }

// Stop ends the server and removes its folder.
func (s *Server) Stop() error {
	var errs []error
	if s.process != nil {
		errs = append(errs, s.process.Signal(syscall.SIGINT))
		late := time.NewTimer(stopWait)
		select {
		case <-s.done:
		case <-late.C:
			errs = append(errs, errors.New("Postgres did not stop in time"), s.process.Kill())
			<-s.done
		}
		late.Stop()
	}
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	for i, err := range errs {
		if errors.Is(err, os.ErrProcessDone) {
			errs[i] = nil
		}
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// Log copies the server's log to w.
func (s *Server) Log(w io.Writer) error {
	f, err := os.Open(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}
