// Package worker is the daemon's main work: it claims leases, runs each
// attempt in a sandbox, journals what happens and ships it, renews what it
// holds, and picks up what an earlier process left.
//
// An attempt is one goroutine from its lease to the acknowledged verdict (see
// attempt.go). Ending the context of Run is an abort: goroutines stop where
// they are, sandboxes stay with their supervisors, and the ledger and the
// journals say to the next process where to go on. Drain comes first in an
// orderly end.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/daemon/internal/diskwatch"
	"github.com/nofx-run/nofx/daemon/internal/journal"
	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/daemon/internal/uids"
	"github.com/nofx-run/nofx/daemon/internal/workspace"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/internal/keylock"
	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Drivers is what the worker needs of the plugin host.
type Drivers interface {
	Driver(name string) (driver.Driver, error)
	Infos() []wire.DriverInfo
}

// Observer hears what happens, for metrics. Every method returns at once.
type Observer interface {
	Claimed(n int)
	Ended(driver string, cause step.Cause, wall time.Duration)
	Shipped(records int, err error)
	Heartbeat(err error)
	Swept(kind string, err error)
	Workspace(what, result string, bytes int64, took time.Duration) // save or restore; ok, unchanged, refused or failed
}

// Config is what a Worker is made of. Nothing of it may be nil.
type Config struct {
	API        *client.Client
	Ledger     *ledger.Ledger
	Cgroups    *cgroup.Tree
	UIDs       *uids.Range
	Workspaces *workspace.Store
	JournalDir string
	Reserve    *journal.Reserve
	Drivers    Drivers
	Observer   Observer
	Log        *slog.Logger
	Name       string // of this host, stable
	Region     string
	Version    string
	Slots      int
	Most       step.Resources // that any step gets on this host; zero = no limit
	MostTime   time.Duration  // likewise
	MostNet    step.Network   // likewise; "" = no limit
	Default    step.Resources // what a step gets here of disk and block io that nobody said anything about; zero = no limit
	Disk       *diskwatch.Watch
	LayerBytes int64  // of files in one layer of a workspace; 0 = workspaces are not saved
	Boot       string // the kernel's id of the host's last start
	Points     failpoint.Points
}

// Worker runs attempts. Make one with New.
type Worker struct {
	cfg         Config
	log         *slog.Logger
	incarnation string

	dirty    chan struct{} // some journal has something to ship
	ended    chan struct{} // it has a verdict
	beatNow  chan struct{} // what is held has changed in a way that cannot wait
	draining chan struct{}
	drain    sync.Once
	leaving  chan struct{}
	leave    sync.Once
	idle     *idle // counts attempts that have not ended

	artifactRoom int64         // bytes of one step's artifacts in all
	overdue      time.Duration // that an exec may take beyond its time and grace, its output's way here included

	placing keylock.Locks // runs whose workspace is looked for or put together
	saving  keylock.Locks // runs whose workspace is saved, until the API has the verdict
	shots   chan struct{} // one token per workspace that is being read
	large   chan struct{} // and one per large layer that is sent or has come

	slots      chan struct{} // one token per running sandbox
	unanswered bool          // the claim with the ledger's id may have taken leases that are not in it; claim's alone
	sweeping   sync.Mutex    // one sweep at a time
	unbounded  sync.Once     // it is said that the default of block io does not hold

	mu         sync.Mutex
	registered wire.WorkerRegistered
	told       string // what the API knows of the drivers, see offer
	attempts   map[string]*attempt
	runs       map[string]ledger.Run
	ends       map[string]map[string]driver.Deadline // of the steps of those runs: when the API was known to have the last verdict
	going      map[string]chan struct{}              // runs whose workspace is being removed, each closed when it is
	swept      []wire.SweepItem                      // that the API does not know of
	barriers   map[gate]int64                        // generations of breakers that let nothing through
}

// New makes a worker. It does nothing yet.
func New(cfg Config) *Worker {
	return &Worker{
		cfg: cfg, log: cfg.Log, incarnation: newID(),
		dirty: make(chan struct{}, 1), ended: make(chan struct{}, 1), beatNow: make(chan struct{}, 1), draining: make(chan struct{}), leaving: make(chan struct{}),
		idle: newIdle(), slots: make(chan struct{}, cfg.Slots), unanswered: true, // by an earlier process
		artifactRoom: maxArtifactsSize, overdue: mostOverdue, shots: make(chan struct{}, mostShots), large: make(chan struct{}, mostLarge),
		attempts: map[string]*attempt{}, runs: map[string]ledger.Run{}, ends: map[string]map[string]driver.Deadline{}, going: map[string]chan struct{}{},
	}
}

// Run works until ctx ends. Attempts that an earlier process left go on at
// once; new ones are claimed as soon as the API answers.
func (w *Worker) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.cfg.Disk.Run(ctx) })
	// What runs already needs no word from the API to go on.
	if err := w.resume(ctx, group); err != nil {
		return err
	}
	if err := w.register(ctx); err != nil {
		return errors.Join(err, group.Wait())
	}
	group.Go(func() error { return w.heartbeats(ctx) })
	group.Go(func() error { return w.ship(ctx) })
	group.Go(func() error { return w.claims(ctx, group) })
	group.Go(func() error { return w.sweeps(ctx) })
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Drain stops new claims, gives back what has not started, and returns when
// the last attempt has ended and its verdict is with the API, or when ctx ends.
func (w *Worker) Drain(ctx context.Context) error {
	w.drain.Do(func() { close(w.draining) })
	poke(w.beatNow)
	return w.idle.wait(ctx)
}

// Leave is what follows a drain where this host is going away: what still runs
// is ended, and told of as lost, so that nobody waits for the lease's end. It
// returns as Drain does.
func (w *Worker) Leave(ctx context.Context) error {
	w.leave.Do(func() { close(w.leaving) })
	return w.idle.wait(ctx)
}

// register makes this worker known, however long the API takes to be there.
func (w *Worker) register(ctx context.Context) error {
	retry := newRetry()
	for {
		drivers := w.cfg.Drivers.Infos()
		got, err := w.cfg.API.Register(ctx, wire.RegisterWorker{
			Name: w.cfg.Name, Incarnation: w.incarnation, Region: w.cfg.Region, Version: w.cfg.Version,
			Slots: w.cfg.Slots, Drivers: drivers,
		})
		if err == nil && (got.WorkerID == "" || got.LeaseMS <= 0 || got.HeartbeatMS <= 0 || got.InstallationID == "") {
			err = step.Errorf(step.KindInternal, "the answer to register is incomplete")
		}
		if err == nil {
			w.mu.Lock()
			w.registered = got
			w.mu.Unlock()
			w.heard(drivers)
			w.log.Info("registered", "worker", got.WorkerID, "incarnation", w.incarnation, "lease", ms(got.LeaseMS))
			return w.cfg.Ledger.Set(installationKey, got.InstallationID)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w.log.Warn("cannot register yet", "err", err)
		if err := retry.sleep(ctx, err); err != nil {
			return err
		}
	}
}

// installationKey is the ledger's name for the installation's id, which a
// sweep needs before the API has been asked.
const installationKey = "installation"

// identity is who the API thinks that this worker is.
func (w *Worker) identity() wire.WorkerRegistered {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.registered
}

// installation is the value of the owner tag.
func (w *Worker) installation() (string, error) {
	if id := w.identity().InstallationID; id != "" {
		return id, nil
	}
	return w.cfg.Ledger.Get(installationKey)
}

// add makes an attempt known, so that it is held, renewed and shipped.
func (w *Worker) add(e ledger.Entry, until driver.Deadline) (*attempt, error) {
	j, err := journal.Open(filepath.Join(w.cfg.JournalDir, e.Lease.AttemptID), w.cfg.Reserve)
	if err != nil {
		return nil, fmt.Errorf("journal of %s: %w", e.Lease.AttemptID, err)
	}
	a := newAttempt(w, e, j, until)
	w.mu.Lock()
	w.attempts[e.Lease.AttemptID] = a
	w.mu.Unlock()
	w.idle.add()
	return a, nil
}

// forget ends the worker's interest in an attempt.
func (w *Worker) forget(a *attempt) {
	w.mu.Lock()
	delete(w.attempts, a.id)
	w.mu.Unlock()
	close(a.gone)
	w.idle.done()
}

func (w *Worker) all() []*attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]*attempt, 0, len(w.attempts))
	for _, a := range w.attempts {
		out = append(out, a)
	}
	return out
}

func (w *Worker) held(id string) *attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.attempts[id]
}

// isDraining reports whether an orderly end has begun.
func (w *Worker) isDraining() bool {
	select {
	case <-w.draining:
		return true
	default:
		return false
	}
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// poke wakes the one who waits on c, if it does not know already.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
