package bench

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/internal/testpg"
	"github.com/nofx-run/nofx/sdk/client"
)

// plane is a control plane alone: nofx-api as a process, over HTTPS, on a
// Postgres of its own that fsyncs. No daemon, no driver.
type plane struct {
	b     *testing.B
	bin   string
	pg    *testpg.Server
	db    testpg.Database
	api   *exec.Cmd
	url   string
	roots *x509.CertPool
	keys  map[string]string // by role
}

// durable is what a production Postgres has, in the test server's place of
// settings that are faster.
func durable() []string {
	return append([]string{"fsync=on", "full_page_writes=on", "synchronous_commit=on", "shared_buffers=1GB", "max_wal_size=4GB",
		"checkpoint_timeout=15min", "autovacuum_naptime=1min"}, strings.Fields(os.Getenv("NOFX_BENCH_POSTGRES"))...) // more of them for who profiles it
}

const stopTime = 60 * time.Second

// newPlane starts one; it ends with the benchmark.
func newPlane(b *testing.B) *plane {
	b.Helper()
	p := &plane{b: b, bin: binaries(b)}
	var err error
	p.pg, err = testpg.Start(b.Context(), func(ctx context.Context, owner string) error {
		_, err := p.admin(ctx, owner, "migrate")
		return err
	}, durable()...)
	if err != nil {
		b.Fatalf("%v (make build first)", err)
	}
	b.Cleanup(func() {
		if err := p.pg.Stop(); err != nil {
			b.Error(err)
		}
	})
	p.open()
	return p
}

// beside is another control plane on the same Postgres, with a database of its
// own.
func (p *plane) beside() *plane {
	p.b.Helper()
	q := &plane{b: p.b, bin: p.bin, pg: p.pg}
	q.open()
	return q
}

func binaries(b *testing.B) string {
	b.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		b.Fatal(err)
	}
	return bin
}

// open makes the database and starts the API on it.
func (p *plane) open() {
	p.b.Helper()
	p.db, p.keys = p.pg.Database(p.b), map[string]string{}
	for _, role := range []string{"user", "worker"} {
		key, err := p.admin(p.b.Context(), p.db.Admin, "keys", "create", "--tenant", "bench", "--name", role, "--role", role)
		if err != nil {
			p.b.Fatal(err)
		}
		p.keys[role] = strings.TrimSpace(key)
	}
	// The database is a copy of an older one, which would look like an outage.
	p.sql("UPDATE nofx.lease_clock SET ticked_at = now(), hold_until = now()")
	p.serve()
}

func (p *plane) admin(ctx context.Context, owner string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "nofx-api"), args...)
	cmd.Env = append(os.Environ(), "NOFX_ADMIN_DATABASE_URL="+owner)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("nofx-api %v: %w: %s", args, err, out)
	}
	return string(out), err
}

// sql runs one statement as the owner.
func (p *plane) sql(text string, args ...any) {
	p.b.Helper()
	conn := p.connect()
	defer conn.Close(p.b.Context())
	if _, err := conn.Exec(p.b.Context(), text, args...); err != nil {
		p.b.Fatal(err)
	}
}

func (p *plane) connect() *pgx.Conn {
	p.b.Helper()
	conn, err := pgx.Connect(p.b.Context(), p.db.Admin)
	if err != nil {
		p.b.Fatal(err)
	}
	return conn
}

var listening = regexp.MustCompile(`https://127\.0\.0\.1:\d+`)

// serve starts the API as it is in production, with its defaults.
func (p *plane) serve() {
	b := p.b
	b.Helper()
	dir := b.TempDir()
	certFile, keyFile, roots := certificate(b, dir)
	p.roots = roots
	p.api = exec.CommandContext(context.Background(), filepath.Join(p.bin, "nofx-api"), "serve")
	p.api.Env = append(os.Environ(), "NOFX_DATABASE_URL="+p.db.API, "NOFX_SYSTEM_DATABASE_URL="+p.db.System, "NOFX_LISTEN=127.0.0.1:0",
		"NOFX_TLS_CERT_FILE="+certFile, "NOFX_TLS_KEY_FILE="+keyFile, "NOFX_BLOB_DIR="+filepath.Join(dir, "blobs"))
	out, done, err := begin(p.api)
	if err != nil {
		b.Fatal(err)
	}
	text := bufio.NewReader(out)
	said := ""
	for p.url == "" {
		line, err := text.ReadString('\n')
		said += line
		if err != nil {
			b.Fatalf("nofx-api does not serve: %v\n%s", err, said)
		}
		p.url = listening.FindString(line)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(logged{b}, text) // what it warns of belongs to the result
	}()
	b.Cleanup(func() {
		_ = p.api.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(stopTime, func() { _ = p.api.Process.Kill() })
		defer late.Stop()
		<-ended
		if err := <-done; err != nil {
			b.Errorf("nofx-api: %v", err)
		}
	})
}

// begin starts a program and gives what it prints, and how it ended, once it
// has. It is killed when the thread that started it ends, as when the benchmark
// is, so that thread waits for it.
func begin(cmd *exec.Cmd) (out io.Reader, done <-chan error, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	cmd.Stdout = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := errors.Join(cmd.Start(), w.Close())
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	return r, ended, <-started
}

// logged writes into a benchmark's log.
type logged struct{ b *testing.B }

func (l logged) Write(text []byte) (int, error) {
	l.b.Log(strings.TrimSpace(string(text)))
	return len(text), nil
}

// client is a new client with connections of its own.
func (p *plane) client(role string) *client.Client {
	p.b.Helper()
	c, err := client.New(client.Options{BaseURL: p.url, Key: p.keys[role], RootCAs: p.roots})
	if err != nil {
		p.b.Fatal(err)
	}
	p.b.Cleanup(c.Close)
	return c
}

// usage is processor time used so far by each part.
type usage struct{ api, pg, bench time.Duration }

func (p *plane) usage() usage {
	return usage{api: CPU(p.api.Process.Pid), pg: CPU(p.pg.Pid()), bench: ticks(os.Getpid())}
}

// server is the processor time of the control plane and its Postgres.
func (p *plane) server() time.Duration {
	u := p.usage()
	return u.api + u.pg
}

// since is what was used from then on.
func (u usage) since(then usage) usage {
	return usage{api: u.api - then.api, pg: u.pg - then.pg, bench: u.bench - then.bench}
}

// report says what each part used for each of n steps, in microseconds of
// processor time.
func (u usage) report(b *testing.B, n int64) {
	b.Helper()
	for name, d := range map[string]time.Duration{"api": u.api, "pg": u.pg, "bench": u.bench} {
		b.ReportMetric(micros(d, n), name+"-µs/step")
	}
}

func micros(d time.Duration, n int64) float64 { return float64(d.Microseconds()) / float64(max(n, 1)) }
