package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/nofx-run/nofx/cmd/nofx/internal/devcert"
	"github.com/nofx-run/nofx/cmd/nofx/internal/pglocal"
	"github.com/nofx-run/nofx/cmd/nofx/internal/supervise"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Config says where and how the system runs.
type Config struct {
	Dir    string // the data folder, made if missing
	Listen string // HOST:PORT of the API; port 0 picks one
	BinDir string // where nofxd, nofx-api and the plugins are
	Self   string // the nofx executable
	Typed  string // the command line, to be typed again
	// Docker is the socket of a Docker Engine for the driver container; "" =
	// DefaultDocker where that is there, NoDocker = none.
	Docker string
	Image  string // of a step on the driver container that names none
	// Runsc is the path of gVisor's runsc for the driver local, GVisorRuntime the
	// name that the engine has for it; "" = no step can demand that level there.
	Runsc, GVisorRuntime string
	// Resolvers are asked for steps with a network, ADDRESS:PORT; none = those
	// of the host.
	Resolvers []string
	// RootFS is the folder that steps on the driver local see as their root; ""
	// = the host's own /usr.
	RootFS string
	// Plugins are driver plugins of somebody else, nofx-driver-NAME, which run
	// beside those of the build, with {} for a configuration.
	Plugins []string
	// Dial makes the API client that start-up probes with.
	Dial func(Endpoint) (Probe, error)
	// Progress gets a line for each stage, for people.
	Progress io.Writer
	Log      *slog.Logger
	// Hurry cuts the graceful end short when it is closed.
	Hurry <-chan struct{}
}

// Values of Config.Docker.
const (
	DefaultDocker = "/var/run/docker.sock"
	NoDocker      = "off"
)

// Probe is what start-up asks the API.
type Probe interface {
	Health(ctx context.Context) (wire.Health, error)
	Workers(ctx context.Context) (wire.WorkerList, error)
}

// System is NOFX on this machine.
type System struct {
	cfg  Config
	inst installation
	pg   *pglocal.Cluster

	socketDir string // the Postgres socket's folder, by a path short enough
	certs     devcert.Files
	endpoint  Endpoint
	stack     []*running // started children, in order
}

// running is a supervised child and the way to end it.
type running struct {
	*supervise.Child
	name string
	stop context.CancelFunc
	done chan error // receives Run's result, once
}

// New checks the configuration. Nothing is made or started yet.
func New(cfg Config) (_ *System, err error) {
	if os.Geteuid() != 0 {
		return nil, step.Errorf(step.KindForbidden, "nofx up needs root to make sandboxes; type: sudo %s", cfg.Typed)
	}
	if _, err := net.ResolveTCPAddr("tcp", cfg.Listen); err != nil {
		return nil, step.Errorf(step.KindInvalid, "--listen %s: HOST:PORT is needed: %w", cfg.Listen, err)
	}
	if cfg.Docker, err = engine(cfg.Docker); err != nil {
		return nil, err
	}
	if cfg.Dir == "" { // Abs would make the current folder of it
		return nil, step.Errorf(step.KindInvalid, "--data: a folder is needed")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(dir, unicode.IsControl) { // client.env has a line for each value
		return nil, step.Errorf(step.KindInvalid, "--data %q: the folder's path holds a line's end, or another control character", cfg.Dir)
	}
	cfg.Dir = dir
	if cfg.RootFS, err = rootFolder(cfg.RootFS); err != nil {
		return nil, err
	}
	for _, name := range []string{"nofx-api", "nofxd"} {
		if _, err := os.Stat(filepath.Join(cfg.BinDir, name)); err != nil {
			return nil, step.Errorf(step.KindNotFound, "%s is not in %s: run make build", name, cfg.BinDir)
		}
	}
	for _, path := range cfg.Plugins {
		if err := checkPlugin(path); err != nil {
			return nil, err
		}
	}
	pg, err := pglocal.Open(filepath.Join(dir, "pg"), cfg.Self)
	if err != nil {
		return nil, err
	}
	return &System{cfg: cfg, pg: pg}, nil
}

// engine finds the socket of the Docker Engine, "" for none.
func engine(asked string) (string, error) {
	switch asked {
	case NoDocker:
		return "", nil
	case "":
		if info, err := os.Stat(DefaultDocker); err == nil && info.Mode().Type() == os.ModeSocket {
			return DefaultDocker, nil
		}
		return "", nil
	}
	path, err := filepath.Abs(asked)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", step.Errorf(step.KindInvalid, "--docker: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return "", step.Errorf(step.KindInvalid, "--docker %s: not a socket", asked)
	}
	return path, nil
}

// rootFolder checks the folder of a root file system; the driver checks more.
func rootFolder(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(path); err != nil {
		return "", step.Errorf(step.KindInvalid, "--rootfs: %w", err)
	} else if !info.IsDir() {
		return "", step.Errorf(step.KindInvalid, "--rootfs %s: not a folder; make one of it by nofx rootfs import", path)
	}
	return path, nil
}

// Run starts everything, calls work once the system serves with a live
// worker, and ends everything when work returns. When ctx is done it drains:
// the daemon first, then what it left on the host, the API, Postgres. Its
// error joins work's with those of starting and ending.
func (s *System) Run(ctx context.Context, work func(context.Context, Endpoint) error) (err error) {
	for _, d := range []string{"", "run", "log"} {
		if err := os.MkdirAll(filepath.Join(s.cfg.Dir, d), 0o755); err != nil {
			return err
		}
	}
	lockfile, err := lock(s.cfg.Dir)
	if err != nil {
		return err
	}
	defer lockfile.Close()
	inst, hold, err := claim(s.cfg.Dir)
	if err != nil {
		return err
	}
	defer hold.Close()
	s.inst = inst

	defer func() { err = errors.Join(err, s.shutdown()) }()
	if err := s.boot(ctx); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return work(ctx, s.endpoint)
}

// spawn starts a child under supervision and puts it on the stack.
func (s *System) spawn(spec supervise.Spec) *running {
	// Children outlive ctx: shutdown ends them in order.
	ctx, stop := context.WithCancel(context.Background())
	r := &running{
		Child: supervise.New(spec, s.path("run"), s.path("log"), s.cfg.Log),
		name:  spec.Name,
		stop:  stop,
		done:  make(chan error, 1),
	}
	s.stack = append(s.stack, r)
	go func() { r.done <- r.Run(ctx, s.cfg.Hurry) }()
	return r
}

// shutdown ends the children in the reverse order of their start and removes
// what is left on the host.
func (s *System) shutdown() error {
	var errs []error
	s.progress("stopping (once more to hurry)")
	for len(s.stack) > 0 {
		last := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		last.stop()
		if err := <-last.done; err != nil {
			errs = append(errs, err)
		}
		if last.name == "nofxd" {
			if err := s.purge(); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if s.socketDir != "" && s.socketDir != s.pg.SocketDir() {
		if err := os.Remove(s.socketDir); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// until polls probe until it returns nil. It gives up when ctx is done, when
// d has passed, or when child, which the probe waits for, has died.
func (s *System) until(ctx context.Context, d time.Duration, what string, child *running, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("%s: not ready after %v", what, d))
	defer cancel()
	ticker := time.NewTicker(25 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // what the end cuts short says nothing
			last = err
		}
		select {
		case err := <-child.done:
			child.done <- err // shutdown reads it too
			return errors.Join(fmt.Errorf("%s: not started", what), err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w; see %s", context.Cause(ctx), last, child.LogPath())
		case <-ticker.C:
		}
		if n, _ := child.Starts(); n > 1 {
			return fmt.Errorf("%s died at its start: %s", what, supervise.Tail(child.LogPath()))
		}
	}
}

func (s *System) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, elem...)...)
}

func (s *System) progress(format string, args ...any) {
	fmt.Fprintf(s.cfg.Progress, "nofx: "+format+"\n", args...)
}

// Serve is the work of a plain `nofx up`: it waits for the end.
func Serve(ctx context.Context, _ Endpoint) error {
	<-ctx.Done()
	return nil
}
