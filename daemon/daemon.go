// Package daemon is the host daemon: it owns the worker host's sandboxes,
// control groups and driver plugins, and works for one control API.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/daemon/internal/control"
	"github.com/nofx-run/nofx/daemon/internal/diskwatch"
	"github.com/nofx-run/nofx/daemon/internal/journal"
	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/daemon/internal/metrics"
	"github.com/nofx-run/nofx/daemon/internal/pluginhost"
	"github.com/nofx-run/nofx/daemon/internal/uids"
	"github.com/nofx-run/nofx/daemon/internal/worker"
	"github.com/nofx-run/nofx/daemon/internal/workspace"
	"github.com/nofx-run/nofx/internal/bootid"
	"github.com/nofx-run/nofx/internal/buildinfo"
	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
)

// Daemon is one host's daemon. Make it with New, run it once.
type Daemon struct {
	cfg Config
	log *slog.Logger

	ledger  *ledger.Ledger
	groups  io.Closer // holds them for this process
	cgroups *cgroup.Tree
	plugins *pluginhost.Host
	places  *places
	work    *workspace.Store
	metrics *metrics.Metrics
	worker  *worker.Worker
	api     *client.Client

	leaving, hurry chan struct{}
}

const (
	pluginsReady = 60 * time.Second // for the first start of every plugin
	leaveTimeout = 8 * time.Second  // for ending what outlasts the drain of a host that goes away
)

// New opens what the daemon has on disk and checks that it can work. Nothing
// runs yet; Close when Run is not called.
func New(cfg Config, log *slog.Logger) (*Daemon, error) {
	if err := asRoot(); err != nil {
		return nil, err
	}
	token, err := cfg.token()
	if err != nil {
		return nil, err
	}
	api, err := client.New(client.Options{
		BaseURL: cfg.APIURL, Key: token, CAFile: cfg.CAFile, UserAgent: "nofxd/" + buildinfo.Version(),
	})
	if err != nil {
		return nil, err
	}
	return opened(cfg, log, api)
}

func asRoot() error {
	if os.Geteuid() != 0 {
		return step.Errorf(step.KindForbidden, "nofxd needs root to make sandboxes")
	}
	return nil
}

// opened is New without a way to the API, which a purge does without.
func opened(cfg Config, log *slog.Logger, api *client.Client) (_ *Daemon, err error) {
	d := &Daemon{cfg: cfg, log: log, metrics: metrics.New(), api: api, leaving: make(chan struct{}), hurry: make(chan struct{})}
	for _, dir := range []string{"", "journal", "work", "local"} {
		if err := os.MkdirAll(cfg.path(dir), 0o700); err != nil {
			return nil, err
		}
	}
	// The ledger's lock is what keeps a second daemon away from the rest.
	if d.ledger, err = ledger.Open(cfg.path("ledger.db")); err != nil {
		return nil, err
	}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Daemon) open() (err error) {
	if d.groups, err = holdGroups(d.cfg.CgroupRoot); err != nil {
		return err
	}
	if d.cgroups, err = cgroup.Open(d.cfg.CgroupRoot); err != nil {
		return err
	}
	if d.work, err = workspace.Open(d.cfg.path("work")); err != nil {
		return err
	}
	ids, err := uids.New(d.cfg.UIDBase, d.cfg.UIDCount)
	if err != nil {
		return err
	}
	configs, err := d.cfg.driverConfigs()
	if err != nil {
		return err
	}
	key, err := d.cfg.pluginKey()
	if err != nil {
		return err
	}
	if d.cfg.AllowUnsigned {
		d.log.Warn("development: driver plugins are run unsigned", "plugin_dir", d.cfg.PluginDir)
	}
	d.plugins, err = pluginhost.New(pluginhost.Config{
		Dir: d.cfg.PluginDir, SocketDir: d.cfg.path("plugins"), PidDir: d.cfg.PidDir,
		Configs: configs, AllowUnsigned: d.cfg.AllowUnsigned, ManifestKey: key,
		Place: d.cgroups.PlacePlugin, Observer: d.metrics, Log: d.log,
	})
	if err != nil {
		return err
	}
	regions, err := d.cfg.driverRegions()
	if err != nil {
		return err
	}
	whole := &disk{Source: d.metrics.Drivers(d.plugins), room: roomOf(d.cfg.path()), log: d.log}
	d.places = &places{Source: whole, host: d.cfg.Region}
	d.places.set(regions)
	d.metrics.Scrape(d.plugins)
	boot, err := bootid.Read()
	if err != nil {
		return err
	}
	reserve, err := journal.NewReserve(d.cfg.path("reserve"), min(d.cfg.Slots, verdictPlaces))
	if err != nil {
		return err
	}
	d.worker = worker.New(worker.Config{
		API: d.api, Ledger: d.ledger, Cgroups: d.cgroups, UIDs: ids, Workspaces: d.work,
		JournalDir: d.cfg.path("journal"), Reserve: reserve, Drivers: d.places, Observer: d.metrics, Log: d.log,
		Name: d.cfg.Name, Region: d.cfg.Region, Version: buildinfo.Version(), Slots: d.cfg.Slots,
		Most: d.cfg.Limits.resources(), MostTime: d.cfg.Limits.Timeout, MostNet: d.cfg.Limits.Network,
		Default: d.cfg.Defaults.resources(), Disk: diskwatch.New(diskwatch.Host(d.cfg.path("work")), d.log), LayerBytes: d.cfg.Snapshots.bytes(), Boot: boot, Points: d.cfg.Points,
	})
	return nil
}

// Close releases what New has opened.
func (d *Daemon) Close() error {
	if d.api != nil {
		d.api.Close()
	}
	err := d.ledger.Close()
	if d.groups != nil {
		err = errors.Join(err, d.groups.Close())
	}
	return err
}

// Run works until ctx ends, then drains: no new claims, what has not started
// is given back, running steps get the drain timeout. What still runs then
// goes on under its supervisor, and the next daemon takes it up; see Leave.
func (d *Daemon) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, d.Close()) }()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", d.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if err := d.writeAddress(listener.Addr().String() + "\n"); err != nil {
		return errors.Join(err, listener.Close())
	}

	// The parts outlive ctx: the drain needs them.
	alive, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	group, alive := errgroup.WithContext(alive)
	group.Go(func() error { return d.serve(alive, listener) })
	group.Go(func() error { return d.plugins.Run(alive) })
	group.Go(func() error {
		c := &control.Server{Socket: d.cfg.path(control.SocketName), Sweep: d.worker.Sweep}
		if err := c.Run(alive); err != nil && alive.Err() == nil {
			d.log.Error("nofx sweep cannot reach this daemon", "err", err) // steps can do without
		}
		return nil
	})
	group.Go(func() error {
		ready, cancel := context.WithTimeout(alive, pluginsReady)
		defer cancel()
		if err := d.plugins.Ready(ready); err != nil && alive.Err() == nil {
			d.log.Warn("not every plugin is ready", "err", err)
		}
		d.notify(sdnotify.SdNotifyReady)
		return d.worker.Run(alive)
	})
	group.Go(func() error { return d.watchdog(alive) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-alive.Done():
			return nil
		}
		d.notify(sdnotify.SdNotifyStopping)
		d.log.Info("draining", "timeout", d.cfg.DrainTimeout)
		if err := d.drain(alive); err != nil {
			d.log.Warn("steps are left to their supervisors", "err", err)
		}
		abort()
		return nil
	})
	d.log.Info("running", "worker", d.cfg.Name, "metrics", "http://"+listener.Addr().String()+"/metrics", "version", buildinfo.Version())
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// writeAddress writes down where the metrics are, whole for whoever waits for it
// as long as the disk has room for a second file.
func (d *Daemon) writeAddress(line string) error {
	path := d.cfg.path("metrics.addr")
	if renameio.WriteFile(path, []byte(line), 0o644, renameio.WithTempDir(d.cfg.path())) == nil {
		return nil
	}
	return os.WriteFile(path, []byte(line), 0o644)
}

// Leave says that this host goes away with the daemon: what outlasts the drain
// is ended and told of as lost. Call it once, before Run's context ends.
func (d *Daemon) Leave() { close(d.leaving) }

// Hurry ends the drain of a host that goes away. Call it once.
func (d *Daemon) Hurry() { close(d.hurry) }

func (d *Daemon) drain(ctx context.Context) error {
	drain, cancel := context.WithTimeout(ctx, d.cfg.DrainTimeout)
	defer cancel()
	go func() {
		select {
		case <-d.hurry:
			cancel()
		case <-drain.Done():
		}
	}()
	err := d.worker.Drain(drain)
	if err == nil {
		return nil
	}
	select {
	case <-d.leaving:
	default:
		return err
	}
	d.log.Warn("what still runs is ended, and told of as lost")
	left, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	return d.worker.Leave(left)
}

// notify tells systemd, where it is there.
func (d *Daemon) notify(state string) {
	if _, err := sdnotify.SdNotify(false, state); err != nil {
		d.log.Warn("systemd was not told", "err", err)
	}
}

// watchdog tells systemd in time that the daemon lives, where it wants that.
func (d *Daemon) watchdog(ctx context.Context) error {
	every, err := sdnotify.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return nil
	}
	ticker := time.NewTicker(every / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			d.notify(sdnotify.SdNotifyWatchdog)
		case <-ctx.Done():
			return nil
		}
	}
}
