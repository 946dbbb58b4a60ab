package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nofx-run/nofx/sdk/client"
)

const (
	bootTime = 90 * time.Second
	stopTime = 30 * time.Second
)

// The uids of installations, as `nofx up` lays them out; a fleet takes one's.
const (
	uidFirst  = 1879113728
	uidCount  = 131072
	uidRanges = 2047
)

// Config is what a fleet is made of.
type Config struct {
	Dir       string // its folder, absolute and empty; every user can enter it
	Bin       string // of the binaries; with those of `make failpoints`, Process.At works
	APIs      int
	Hosts     []Host
	Tenants   []string
	Lease     time.Duration
	Heartbeat time.Duration
	Env       []string                // further variables of the APIs
	Note      func(name, what string) // hears of each start and end of a process; it must not block
}

// Fleet is a running installation.
type Fleet struct {
	Dir      string
	Postgres *Postgres
	APIs     []*API
	Daemons  []*Daemon

	cfg  Config
	id   string // in the names of what it has on this machine
	cert certificate
	uids uint32
	hold net.Listener // keeps the uids ours
	keys map[string]string
}

// Start boots a fleet and waits until every part serves. Stop must be called,
// also when it fails.
func Start(ctx context.Context, cfg Config) (*Fleet, error) {
	f := &Fleet{Dir: cfg.Dir, cfg: cfg, id: fmt.Sprintf("%08x", random(1<<31)), keys: map[string]string{}}
	if f.cfg.Note == nil {
		f.cfg.Note = func(string, string) {}
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	for _, stage := range []func(context.Context) error{f.prepare, f.startPostgres, f.startAPIs, f.startDaemons} {
		if err := stage(ctx); err != nil {
			return f, err
		}
	}
	return f, nil
}

// Group is what the names of its control groups begin with.
func (f *Fleet) Group() string { return "nofx-" + f.id }

func (f *Fleet) uidShare() uint32 { return uidCount / uint32(max(len(f.cfg.Hosts), 1)) &^ 1 }

// points is the folder of a process's failpoints.
func (f *Fleet) points(name string) string { return filepath.Join(f.Dir, "points", name) }

func (f *Fleet) prepare(context.Context) (err error) {
	for _, dir := range []string{filepath.Join(f.Dir, "plugins"), filepath.Join(f.Dir, "blobs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(f.Dir, "blobs"), 0o700); err != nil {
		return err
	}
	if f.cert, err = newCertificate(f.Dir); err != nil {
		return err
	}
	for range 16 {
		f.uids = uint32(uidFirst + random(uidRanges)*uidCount)
		if f.hold, err = (&net.ListenConfig{}).Listen(context.Background(), "unix", "@nofx-uids-"+strconv.FormatUint(uint64(f.uids), 10)); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("no free uids: %w", err)
	}
	for _, name := range []string{"nofx-driver-local", "nofx-supervisor", "nofx-egress"} {
		if err := install(filepath.Join(f.cfg.Bin, name), filepath.Join(f.Dir, "plugins", name)); err != nil {
			return fmt.Errorf("%w: run make build", err)
		}
	}
	return nil
}

func install(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (f *Fleet) startPostgres(ctx context.Context) (err error) {
	if f.Postgres, err = newPostgres(ctx, filepath.Join(f.Dir, "postgres"), f.cfg.Note); err != nil {
		f.Postgres = nil
		return err
	}
	f.Postgres.start()
	if err := f.Postgres.Ready(ctx); err != nil {
		return err
	}
	if _, err := f.Admin(ctx, "migrate"); err != nil {
		return err
	}
	for _, role := range []string{"nofx_api", "nofx_system"} {
		if err := f.Postgres.exec(ctx, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", role, f.Postgres.password)); err != nil {
			return err
		}
	}
	for _, tenant := range f.cfg.Tenants {
		key, err := f.Admin(ctx, "keys", "create", "--tenant", tenant, "--name", "fleet", "--role", "operator")
		if err != nil {
			return err
		}
		f.keys[tenant] = key
	}
	token, err := f.Admin(ctx, "keys", "create", "--tenant", f.cfg.Tenants[0], "--name", "hosts", "--role", "worker")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.Dir, "worker.token"), []byte(token+"\n"), 0o600)
}

// Admin runs a nofx-api command as the owner of the database and returns what
// it prints.
func (f *Fleet) Admin(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(f.cfg.Bin, "nofx-api"), args...)
	cmd.Dir = f.Dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "TZ=UTC", "HOME=" + f.Dir, "NOFX_ADMIN_DATABASE_URL=" + f.Postgres.Admin()}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("nofx-api %s: %w: %s", args[0], err, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func (f *Fleet) startAPIs(ctx context.Context) error {
	for i := range f.cfg.APIs {
		a, err := f.newAPI(i)
		if err != nil {
			return err
		}
		f.APIs = append(f.APIs, a)
		a.start()
	}
	for _, a := range f.APIs {
		if err := a.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) startDaemons(ctx context.Context) error {
	for i, host := range f.cfg.Hosts {
		d, err := f.newDaemon(ctx, i, host)
		if err != nil {
			return err
		}
		f.Daemons = append(f.Daemons, d)
		d.start()
	}
	for _, d := range f.Daemons {
		if err := d.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// live reports whether an API knows the worker as one that can take work.
func (f *Fleet) live(ctx context.Context, name string) error {
	c, err := f.dial(f.APIs[0].addr(), f.cfg.Tenants[0])
	if err != nil {
		return err
	}
	defer c.Close()
	list, err := c.Workers(ctx)
	if err != nil {
		return err
	}
	for _, w := range list.Workers {
		for _, drv := range w.Drivers {
			if w.Name == name && w.Status == "live" && drv.Name == "local" && drv.Healthy {
				return nil
			}
		}
	}
	return errors.New("no live worker of this name with a healthy driver")
}

// Dial is a client of a tenant, by the link to an API. Close it after use.
func (f *Fleet) Dial(api int, tenant string) (*client.Client, error) {
	return f.dial(f.APIs[api].Client.Addr(), tenant)
}

// Direct is Dial past the link.
func (f *Fleet) Direct(api int, tenant string) (*client.Client, error) {
	return f.dial(f.APIs[api].addr(), tenant)
}

func (f *Fleet) dial(addr, tenant string) (*client.Client, error) {
	return client.New(client.Options{BaseURL: "https://" + addr, Key: f.keys[tenant], CAFile: f.cert.cert, Timeout: 10 * time.Second})
}

// Turn has a daemon talk to another API from now on.
func (f *Fleet) Turn(daemon, api int) error {
	return f.Daemons[daemon].API.Turn(f.APIs[api].addr())
}

// Stop ends the fleet and takes it off this machine. What is left on it then is
// in the error.
func (f *Fleet) Stop() error {
	var errs []error
	add := func(err error) { errs = append(errs, err) }
	var removing sync.WaitGroup
	results := make([]error, len(f.Daemons))
	for i, d := range f.Daemons {
		removing.Go(func() { results[i] = d.remove() })
	}
	removing.Wait()
	errs = append(errs, results...)
	for _, a := range f.APIs {
		add(a.remove())
	}
	if f.Postgres != nil {
		add(f.Postgres.stop(syscall.SIGINT, stopTime))
	}
	if f.hold != nil {
		add(f.hold.Close())
	}
	for _, left := range f.Leftovers() {
		add(fmt.Errorf("left on the host: %s %s", left.Kind, left.Name))
	}
	return errors.Join(errs...)
}

// Leftovers lists what this machine has of the fleet, while it runs or after.
func (f *Fleet) Leftovers() []Resource {
	var left []Resource
	for _, pid := range processes() {
		groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.Contains(groups, []byte(f.Group())) || bytes.Contains(args, []byte(f.Dir+"/")) {
			left = append(left, Resource{Kind: "process", Name: fmt.Sprintf("%d %s", pid, bytes.ReplaceAll(args, []byte{0}, []byte{' '}))})
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, f.Dir+"/") || strings.Contains(line, f.Group()) {
			left = append(left, Resource{Kind: "mount", Name: strings.TrimSpace(line)})
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), f.Group()) {
			left = append(left, Resource{Kind: "cgroup", Name: path})
			return fs.SkipDir
		}
		return nil // a group that vanishes while we look is fine
	})
	return left
}

// random is a number from 0 to n-1 that no seed decides: for names on this
// machine.
func random(n int64) int {
	v, err := rand.Int(rand.Reader, big.NewInt(n))
	if err != nil {
		panic(err) // never fails
	}
	return int(v.Int64())
}
