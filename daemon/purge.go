package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/daemon/internal/workspace"
	"github.com/nofx-run/nofx/sdk/step"
)

// Purge removes everything that this installation has on this host: plugins,
// sandboxes, control groups, workspaces, records. No daemon may be running. It
// needs neither the API nor a key for it. withoutLedger lets it go on where the
// ledger cannot be read; then, as where there is none, it ends what is in the
// installation's control groups, and asks no driver.
func Purge(ctx context.Context, cfg Config, log *slog.Logger, withoutLedger bool) (err error) {
	if err := asRoot(); err != nil {
		return err
	}
	path := cfg.path("ledger.db")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return purgeAlone(ctx, cfg)
	}
	l, err := ledger.Open(path)
	switch {
	case err == nil:
		if err := l.Close(); err != nil {
			return err
		}
	case step.Is(err, step.KindConflict):
		return err
	case withoutLedger:
		log.Warn("the ledger is not read; what drivers have beyond this host's control groups stays", "err", err)
		if err := purgeAlone(ctx, cfg); err != nil {
			return err
		}
		return os.Remove(path)
	default:
		return fmt.Errorf("%w; --without-ledger purges what is in the installation's control groups, and its workspaces", err)
	}
	d, err := opened(cfg, log, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.purgeSandboxes(ctx); err != nil {
		return err
	}
	runs, err := d.ledger.Runs()
	if err != nil {
		return err
	}
	for _, run := range runs {
		if err := d.work.Remove(run.ID); err != nil {
			return err
		}
		if err := d.ledger.DeleteRun(run.ID); err != nil {
			return err
		}
	}
	return purgeHost(ctx, cfg)
}

// purgeAlone is purgeHost where no daemon is opened, which would hold the groups.
func purgeAlone(ctx context.Context, cfg Config) (err error) {
	hold, err := holdGroups(cfg.CgroupRoot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hold.Close()) }()
	return purgeHost(ctx, cfg)
}

// purgeHost removes what the installation has in this host's control groups,
// with all that runs there, and in its data folder.
func purgeHost(ctx context.Context, cfg Config) error {
	tree, err := cgroup.Open(cfg.CgroupRoot)
	if err != nil {
		return err
	}
	if err := tree.RemoveAll(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(cfg.path("work")); err == nil {
		work, err := workspace.Open(cfg.path("work"))
		if err != nil {
			return err
		}
		runs, err := work.Runs()
		if err != nil {
			return err
		}
		for _, id := range runs {
			if err := work.Remove(id); err != nil {
				return err
			}
		}
	}
	journals, err := os.ReadDir(cfg.path("journal"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, j := range journals {
		if err := os.RemoveAll(cfg.path("journal", j.Name())); err != nil {
			return err
		}
	}
	return nil
}

// purgeSandboxes has the drivers on this host destroy all that they have.
func (d *Daemon) purgeSandboxes(ctx context.Context) error {
	running, stop := context.WithCancel(ctx)
	group, running := errgroup.WithContext(running)
	group.Go(func() error { return d.plugins.Run(running) })
	err := d.plugins.Ready(running)
	if err == nil {
		err = d.worker.Purge(running)
	}
	stop()
	if runErr := group.Wait(); !errors.Is(runErr, context.Canceled) {
		err = errors.Join(err, runErr)
	}
	return err
}
