package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Limits of what a worker says about itself.
const (
	maxSlots   = 100_000
	maxDrivers = 64
	maxHeld    = 100_000
	maxID      = 200 // bytes
)

const notRegion = "must be the name of a region: 1 to 63 of a-z, 0-9 and -, and first no -"

// Register makes or renews a worker. A new incarnation keeps its leases.
func (q *Queue) Register(ctx context.Context, who auth.Principal, in wire.RegisterWorker) (wire.WorkerRegistered, error) {
	switch {
	case !short(in.Name):
		return wire.WorkerRegistered{}, invalid("body.name", "must have 1 to %d bytes", maxID)
	case !short(in.Incarnation):
		return wire.WorkerRegistered{}, invalid("body.incarnation", "must have 1 to %d bytes", maxID)
	case in.Region != "" && !step.ValidRegion(in.Region):
		return wire.WorkerRegistered{}, invalid("body.region", notRegion)
	case !plain(in.Version):
		return wire.WorkerRegistered{}, invalid("body.version", "is too long")
	case in.Slots < 0 || in.Slots > maxSlots:
		return wire.WorkerRegistered{}, invalid("body.slots", "must be 0 to %d", maxSlots)
	}
	drivers, err := driversOf(in.Drivers)
	if err != nil {
		return wire.WorkerRegistered{}, err
	}
	if in.Region == "" {
		in.Region = q.cfg.Region
	}
	out := wire.WorkerRegistered{LeaseMS: q.cfg.Lease.Milliseconds(), HeartbeatMS: q.cfg.Heartbeat.Milliseconds()}
	err = q.db.System(ctx, func(db *pgdb.Queries) error {
		installation, err := db.Installation(ctx)
		if err != nil {
			return err
		}
		out.InstallationID = installation.ID
		old, err := before(ctx, db, who.TenantID, in.Name)
		if err != nil {
			return err
		}
		out.WorkerID, err = db.RegisterWorker(ctx, pgdb.RegisterWorkerParams{
			ID: NewID("wrk"), TenantID: who.TenantID, KeyID: who.KeyID, Name: in.Name, Incarnation: in.Incarnation,
			Region: in.Region, Version: in.Version, Slots: i32(in.Slots), Drivers: drivers,
		})
		if none(err) {
			return step.Errorf(step.KindConflict, "another key's worker is called %q and is alive", in.Name)
		}
		if err != nil {
			return err
		}
		news, err := registered(old, in.Drivers, in.Version)
		if err != nil {
			return err
		}
		return news.write(ctx, db, who.TenantID, out.WorkerID)
	})
	return out, err
}

func short(s string) bool { return s != "" && len(s) <= maxID && plain(s) }

func driversOf(list []wire.DriverInfo) ([]byte, error) {
	if len(list) > maxDrivers {
		return nil, invalid("body.drivers", "at most %d", maxDrivers)
	}
	if list == nil {
		list = []wire.DriverInfo{}
	}
	for i := range list {
		if !short(list[i].Name) || !plain(list[i].Version) || len(list[i].Capabilities) > maxDrivers {
			return nil, invalid("body.drivers", "a driver needs a name, and its texts must be short")
		}
		if r := list[i].Region; r != "" && !step.ValidRegion(r) {
			return nil, invalid(fmt.Sprintf("body.drivers[%d].region", i), notRegion)
		}
		if len(list[i].Message) > maxText {
			list[i].Message = list[i].Message[:maxText]
		}
	}
	return json.Marshal(list)
}

// Release takes back leases that were never started, without counting an
// attempt. Those of cancelled runs end instead.
func (q *Queue) Release(ctx context.Context, who auth.Principal, in wire.ReleaseRequest) (wire.ReleaseAnswer, error) {
	out := wire.ReleaseAnswer{Released: []string{}}
	if len(in.Leases) > maxHeld {
		return out, invalid("body.leases", "at most %d", maxHeld)
	}
	f := split(in.Leases)
	c := noChange()
	err := q.db.System(ctx, func(db *pgdb.Queries) error {
		if err := known(ctx, db, who, in.WorkerID, in.Incarnation); err != nil {
			return err
		}
		runs, err := db.LockRunsOf(ctx, f.ids)
		if err != nil {
			return err
		}
		rows, err := db.LockAttempts(ctx, pgdb.LockAttemptsParams{Ids: f.ids, Generations: f.generations, Numbers: f.numbers,
			Epochs: f.epochs, WorkerID: in.WorkerID, Incarnation: in.Incarnation, KeyID: who.KeyID})
		if err != nil {
			return err
		}
		ids, err := db.ReleaseAttempts(ctx, pgdb.ReleaseAttemptsParams{WorkerID: in.WorkerID, Incarnation: in.Incarnation, KeyID: who.KeyID,
			Ids: f.ids, Generations: f.generations, Numbers: f.numbers, Epochs: f.epochs})
		if err != nil {
			return err
		}
		out.Released = ids
		c = newChange(runs)
		if err := c.unclaim(ctx, db, rows, ids); err != nil {
			return err
		}
		return c.write(ctx, db)
	})
	if err != nil {
		return wire.ReleaseAnswer{}, err
	}
	q.announce(ctx, c)
	q.judge(ctx, c.health)
	return out, nil
}

// unclaim puts the steps of released attempts back into the queue.
func (c *change) unclaim(ctx context.Context, db *pgdb.Queries, rows []attemptRow, released []string) error {
	in := make(map[string]bool, len(released))
	for _, id := range released {
		in[id] = true
	}
	var p pgdb.UnclaimStepsParams
	for _, a := range rows {
		if !in[a.ID] {
			continue
		}
		c.health.add(a, step.Verdict{})
		c.stop(a)
		r := c.runs[a.RunID]
		if r.CancelAt != nil {
			if err := c.cancelled(a); err != nil {
				return err
			}
			continue
		}
		pin := ""
		if a.Shares {
			pin = r.Pin
		}
		p.Ids, p.Generations = append(p.Ids, a.StepID), append(p.Generations, a.Generation)
		p.Attempts, p.Epochs, p.Pins = append(p.Attempts, a.Number), append(p.Epochs, a.Epoch), append(p.Pins, pin)
		c.queued = append(c.queued, place{a.Driver, a.Placed, pin})
	}
	if len(p.Ids) == 0 {
		return nil
	}
	ids, err := db.UnclaimSteps(ctx, p)
	if err != nil {
		return err
	}
	if len(ids) != len(p.Ids) {
		return step.Errorf(step.KindConflict, "a released step is not at that attempt any more")
	}
	return nil
}

// cancelled ends the step of an attempt that never started, in a run that is
// being cancelled.
func (c *change) cancelled(a attemptRow) error {
	verdict, err := json.Marshal(unbegun(a.Number - 1))
	if err != nil {
		return err
	}
	e := &c.ends
	e.Ids, e.Generations = append(e.Ids, a.StepID), append(e.Generations, a.Generation)
	e.Attempts, e.Epochs = append(e.Attempts, a.Number), append(e.Epochs, a.Epoch)
	e.Statuses, e.Verdicts = append(e.Statuses, string(step.StepCancelled)), append(e.Verdicts, string(verdict))
	e.Outputs, e.Lost, e.Saved = append(e.Outputs, ""), append(e.Lost, 0), append(e.Saved, false)
	c.count(c.runs[a.RunID], step.StepCancelled)
	c.red = append(c.red, a.StepID)
	return c.event(a.RunID, event.Entry{Type: step.EventStepCancelled, StepID: a.StepID, StepName: a.Name})
}

// Upload says whose artifact or layer comes.
type Upload struct {
	wire.Fence
	WorkerID    string // "" = any of the key's workers
	Incarnation string
	SHA256      string
	Size        int64 // -1 = not known
}

// PutArtifact stores bytes for an attempt that runs. They belong to nothing
// before its verdict names them.
func (q *Queue) PutArtifact(ctx context.Context, who auth.Principal, u Upload, body io.Reader) error {
	var tenant string
	err := q.db.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
		tenant, err = db.HoldsAttempt(ctx, pgdb.HoldsAttemptParams{ID: u.AttemptID, Generation: i32(u.Generation), Number: i32(u.Attempt),
			Epoch: u.Epoch, WorkerID: u.WorkerID, Incarnation: u.Incarnation, KeyID: who.KeyID})
		if none(err) {
			return step.Errorf(step.KindConflict, "the attempt is not this worker's any more")
		}
		return err
	})
	if err != nil {
		return err
	}
	return q.blobs.Put(ctx, tenant, u.SHA256, u.Size, wire.MaxArtifactBytes, body)
}

func seconds(d time.Duration) float64 { return d.Seconds() }
