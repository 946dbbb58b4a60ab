package queue

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const keepWorkerEvents = 30 * 24 * time.Hour

// workerNews are events of one worker host.
type workerNews []workerEvent

type workerEvent struct {
	kind            step.EventType
	driver, message string
}

// newsOf compares what a worker said of its drivers with what it says now.
func newsOf(before []byte, now []wire.DriverInfo) (workerNews, error) {
	var old []wire.DriverInfo
	if len(before) > 0 {
		if err := json.Unmarshal(before, &old); err != nil {
			return nil, step.Errorf(step.KindInternal, "a worker's drivers: %w", err)
		}
	}
	was := make(map[string]wire.DriverInfo, len(old))
	for _, d := range old {
		was[d.Name] = d
	}
	var news workerNews
	for _, d := range now {
		o := was[d.Name]
		delete(was, d.Name)
		switch {
		case d.Refused != "" && d.Refused != o.Refused:
			news = append(news, workerEvent{step.EventDriverRefused, d.Name, d.Message})
		case d.Healthy && !o.Healthy:
			news = append(news, workerEvent{step.EventDriverUp, d.Name, d.Version})
		case !d.Healthy && o.Healthy:
			news = append(news, workerEvent{step.EventDriverDown, d.Name, d.Message})
		}
	}
	for _, o := range old {
		if _, gone := was[o.Name]; gone && o.Healthy {
			news = append(news, workerEvent{step.EventDriverDown, o.Name, "the worker has it no more"})
		}
	}
	return news, nil
}

// sweptNews tells what sweeps of a host removed, or could not.
func sweptNews(items []wire.SweepItem) workerNews {
	var news workerNews
	for _, i := range items {
		e := workerEvent{step.EventSweepRemoved, i.Driver, i.Kind + " " + i.Name + ": " + i.Reason}
		if !i.Removed {
			e.kind, e.message = step.EventSweepFailed, e.message+": "+i.Error
		}
		e.driver, e.message = bounded(e.driver, maxID), bounded(e.message, maxText)
		news = append(news, e)
	}
	return news
}

// bounded makes a worker's text short enough to keep, and valid.
func bounded(text string, most int) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text[:min(len(text), most)], ""), "\x00", "")
}

func (n workerNews) write(ctx context.Context, db *pgdb.Queries, tenant, worker string) error {
	if len(n) == 0 {
		return nil
	}
	p := pgdb.InsertWorkerEventsParams{TenantID: tenant, WorkerID: worker}
	for _, e := range n {
		p.Types, p.Drivers, p.Messages = append(p.Types, string(e.kind)), append(p.Drivers, e.driver), append(p.Messages, e.message)
	}
	return db.InsertWorkerEvents(ctx, p)
}

// before is what a worker last said of its drivers; nothing for a new one.
func before(ctx context.Context, db *pgdb.Queries, tenant, name string) (drivers []byte, err error) {
	drivers, err = db.WorkerBefore(ctx, tenant, name)
	if none(err) {
		return nil, nil
	}
	return drivers, err
}

// registered are the events of a worker that begins, or begins anew.
func registered(drivers []byte, now []wire.DriverInfo, version string) (workerNews, error) {
	news, err := newsOf(drivers, now)
	return append(workerNews{{kind: step.EventWorkerUp, message: version}}, news...), err
}
