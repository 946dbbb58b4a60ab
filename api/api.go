package api

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nofx-run/nofx/api/internal/alert"
	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/blob"
	"github.com/nofx-run/nofx/api/internal/fleet"
	"github.com/nofx-run/nofx/api/internal/handler"
	"github.com/nofx-run/nofx/api/internal/httpapi"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/api/internal/profile"
	"github.com/nofx-run/nofx/api/internal/queue"
	"github.com/nofx-run/nofx/api/internal/retention"
	"github.com/nofx-run/nofx/api/internal/runs"
	"github.com/nofx-run/nofx/api/internal/secret"
	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/configs"
)

const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	startWait         = 30 * time.Second // for the database at the start
	channel           = "nofx_wake"
)

// API is one replica.
type API struct {
	cfg    Config
	log    *slog.Logger
	db     *pg.DB
	blobs  *blob.Dir
	alerts *alert.Service
	queue  *queue.Queue
	hub    *wake.Hub
	relay  *wake.Relay

	retention *retention.Service

	listener net.Listener
	server   *http.Server
	stopping chan struct{}
}

// New makes a replica and opens its port, so that Addr is known. It serves
// once Run is called. Close a replica that is never run.
func New(ctx context.Context, cfg Config, log *slog.Logger) (a *API, err error) {
	a = &API{cfg: cfg, log: log, hub: wake.New(), stopping: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if err := cfg.check(); err != nil {
		return a, err
	}
	sizes, err := profiles(cfg.ProfilesFile)
	if err != nil {
		return a, err
	}
	handlers, err := handlersOf(cfg.HandlersDir, sizes)
	if err != nil {
		return a, err
	}
	presets, err := networkPresets(cfg.NetworkPresetsFile)
	if err != nil {
		return a, err
	}
	secrets, err := secret.Load(cfg.KeysetFile)
	if err != nil {
		return a, err
	}
	if err := secrets.Ready(); err != nil {
		log.LogAttrs(ctx, slog.LevelWarn, "steps with sensitive inputs are refused", slog.String("why", err.Error()))
	}
	cert, err := tls.LoadX509KeyPair(cfg.TLSCertFile, cfg.TLSKeyFile)
	if err != nil {
		return a, fmt.Errorf("TLS certificate: %w", err)
	}
	if a.blobs, err = blob.Open(cfg.BlobDir); err != nil {
		return a, fmt.Errorf("NOFX_BLOB_DIR: %w", err)
	}
	a.db, err = pg.Open(ctx, pg.Config{TenantURL: cfg.DatabaseURL, SystemURL: cfg.SystemDatabaseURL, MaxConns: cfg.DBConns, Log: log})
	if err != nil {
		return a, err
	}
	a.relay = &wake.Relay{Hub: a.hub, Replica: rand.Text(), Log: log,
		Send: func(ctx context.Context, payload string) error { return a.db.Notify(ctx, channel, payload) }}
	registry, seen := newRegistry(a.db, a.hub)
	a.retention = &retention.Service{DB: a.db, Blobs: a.blobs, Keep: cfg.Retain, Log: log}
	a.retention.Observer = newRetentionMetrics(registry, a.retention)
	registry.MustRegister(queueMetrics{a.db})
	workers := &fleet.Workers{DB: a.db}
	a.queue = queue.New(queue.Config{Lease: cfg.Lease, Heartbeat: cfg.Heartbeat, Region: cfg.Region, WorkspaceWait: cfg.WorkspaceWait, WorkspaceKeep: cfg.WorkspaceKeep, DriverWait: cfg.DriverWait, RegionWait: cfg.RegionWait, Pressure: cfg.QueuePressure, MaxProjects: cfg.MaxProjects,
		Rules: handlers, Observer: seen, Fleet: workers, Points: cfg.Points, Secrets: secrets}, a.db, a.blobs, a.hub, log)
	alerts, err := alertClient(cfg)
	if err != nil {
		return a, err
	}
	a.alerts = &alert.Service{DB: a.db, Client: alerts, Keys: secrets, Log: log}
	h, err := httpapi.New(httpapi.Services{
		Auth: &auth.Checker{Keys: keys{a.db}}, Handlers: handlers, Presets: presets, Profiles: sizes, Drivers: workers, Fleet: workers, Queue: a.queue, Runs: &runs.Reader{DB: a.db, Blobs: a.blobs, Fleet: workers}, Alerts: a.alerts, Hub: a.hub,
		Health: a.health, Tick: a.tick, TickToken: cfg.TickToken, Registry: registry, Log: log, Stopping: a.stopping,
	})
	if err != nil {
		return a, err
	}
	if a.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen); err != nil {
		return a, err
	}
	a.server = &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}},
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return a, nil
}

func handlersOf(path string, sizes profile.Set) (*handler.Set, error) {
	dir, err := handlersDir(path)
	if err != nil {
		return nil, err
	}
	return handler.Load(dir, sizes)
}

func handlersDir(path string) (fs.FS, error) {
	if path == "" {
		return configs.Handlers()
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("NOFX_HANDLERS_DIR: %w", err)
	}
	return os.DirFS(path), nil
}

func profiles(path string) (profile.Set, error) {
	data, err := configs.Profiles()
	if path != "" {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("NOFX_PROFILES_FILE: %w", err)
	}
	return profile.Parse(data)
}

// alertClient is what calls the receivers of alerts.
func alertClient(cfg Config) (*alert.Client, error) {
	var allow []netip.Prefix
	for text := range strings.SplitSeq(cfg.AlertAllow, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("NOFX_ALERT_ALLOW: %w", err)
		}
		allow = append(allow, p.Masked())
	}
	var roots *x509.CertPool
	if cfg.AlertCAFile != "" {
		pem, err := os.ReadFile(cfg.AlertCAFile)
		if err != nil {
			return nil, fmt.Errorf("NOFX_ALERT_CA_FILE: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, errors.New("NOFX_ALERT_CA_FILE holds no certificate")
		}
	}
	return alert.NewClient(allow, roots), nil
}

func networkPresets(path string) (plan.Presets, error) {
	data, err := configs.NetworkPresets()
	if path != "" {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("NOFX_NETWORK_PRESETS_FILE: %w", err)
	}
	p, err := plan.ParsePresets(data)
	if err != nil {
		return nil, fmt.Errorf("network presets: %w", err)
	}
	return p, nil
}

// Addr is where the replica listens, as https://HOST:PORT.
func (a *API) Addr() string { return "https://" + a.listener.Addr().String() }

// Close frees what New took.
func (a *API) Close() error {
	var errs []error
	if a.listener != nil {
		if err := a.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if a.alerts != nil {
		a.alerts.Client.Close()
	}
	if a.db != nil {
		a.db.Close()
	}
	if a.blobs != nil {
		errs = append(errs, a.blobs.Close())
	}
	return errors.Join(errs...)
}

// Run serves until ctx is done, then lets requests finish.
func (a *API) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.Close()) }()
	if err := a.waitForSchema(ctx); err != nil {
		return err
	}
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	var background errgroup.Group
	background.Go(func() error { return a.relay.Run(work) })
	background.Go(func() error {
		return (&pg.Listener{URL: a.cfg.SystemDatabaseURL, Channel: channel, Notice: a.relay.Receive, Gap: a.hub.All, Log: a.log}).Run(work)
	})
	background.Go(func() error { return a.every(work, "reaper", a.queue.ReapEvery(), a.queue.Reap) })
	background.Go(func() error { return a.every(work, "poll", pollEvery, a.queue.Poll) })
	background.Go(func() error { return a.every(work, "alert rules", alert.Every, a.alerts.Tick) })
	background.Go(func() error { return a.over(work, "alerts", alert.DeliverEvery, a.alerts.Deliver) }) // which bounds each try
	background.Go(func() error { return a.every(work, "held runs", queue.TurnsEvery, a.queue.Turns) })
	background.Go(func() error { return a.every(work, "queue pressure", queue.PressureEvery, a.queue.NotePressure) })
	background.Go(func() error { return a.every(work, "retention", retention.Every, a.retention.Tick) })
	background.Go(func() error { return a.every(work, "blobs", retention.Every, a.retention.Collect) })
	background.Go(func() error { return a.every(work, "quotas", queue.QuotasEvery, a.queue.NoteSpent) })
	background.Go(func() error { return a.every(work, "sequencer", sequenceEvery, a.sequence) })

	front := httpapi.Front(a.server, a.listener)
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(front) }()
	a.log.LogAttrs(ctx, slog.LevelInfo, "listening", slog.String("addr", a.Addr()))

	select {
	case err = <-served:
	case <-ctx.Done():
		a.log.LogAttrs(ctx, slog.LevelInfo, "stopping")
		close(a.stopping)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.DrainTimeout)
		if e := a.server.Shutdown(drain); e != nil {
			err = errors.Join(fmt.Errorf("drain: %w", e), a.server.Close())
		}
		cancel()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	stopWork()
	return errors.Join(err, background.Wait())
}

// waitForSchema gives the database a moment to come up; a schema that is too
// old is an error at once.
func (a *API) waitForSchema(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		err := a.db.Check(ctx)
		if err == nil || !pg.Away(err) || ctx.Err() != nil {
			return err
		}
		pause := time.NewTimer(200 * time.Millisecond)
		select {
		case <-ctx.Done():
			pause.Stop()
			return err
		case <-pause.C:
		}
	}
}
