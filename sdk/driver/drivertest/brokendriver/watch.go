package brokendriver

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// leases are kept by the driver itself, in the defect's way, and not by what
// holds the sandboxes.
type leases struct {
	driver.Driver
	defect string
	dir    string // outlives the process; "" = there is none

	mu    sync.Mutex
	until map[string]driver.Deadline
	first driver.Handle // made by this driver
}

func newLeases(d driver.Driver, defect, dir string) *leases {
	return &leases{Driver: d, defect: defect, dir: dir, until: map[string]driver.Deadline{}}
}

// keeps reports whether the defect is about leases.
func (l *leases) keeps() bool {
	return l.defect == "ends-only-what-is-read" || l.defect == "lease-needs-it"
}

func (l *leases) Create(ctx context.Context, s driver.Spec) (driver.Handle, error) {
	until := s.Until
	if l.keeps() {
		s.Until = 0
	}
	h, err := l.Driver.Create(ctx, s)
	if err != nil {
		return h, err
	}
	l.mu.Lock()
	if l.first.ID == "" {
		l.first = h
	}
	l.mu.Unlock()
	return h, l.set(h, until)
}

func (l *leases) Extend(ctx context.Context, h driver.Handle, until driver.Deadline) error {
	if !l.keeps() {
		return l.Driver.Extend(ctx, h, until)
	}
	return l.set(h, max(until, l.of(h)))
}

func (l *leases) of(h driver.Handle) driver.Deadline {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until[h.ID]
}

// kept is what this process's successor finds.
type kept struct {
	Handle driver.Handle
	Until  driver.Deadline
}

const leaseSuffix = ".lease"

func (l *leases) set(h driver.Handle, until driver.Deadline) error {
	if !l.keeps() || until == 0 {
		return nil
	}
	l.mu.Lock()
	l.until[h.ID] = until
	l.mu.Unlock()
	if l.defect != "lease-needs-it" {
		return nil
	}
	data, err := json.Marshal(kept{h, until})
	if err == nil {
		err = os.WriteFile(filepath.Join(l.dir, h.ID+leaseSuffix), data, 0o600)
	}
	go l.end(context.Background(), h)
	return err
}

// end ends a sandbox at its deadline, as long as this process lives and ctx.
func (l *leases) end(ctx context.Context, h driver.Handle) {
	for left := l.of(h).Left(); left > 0; left = l.of(h).Left() {
		wait(ctx, left)
		if ctx.Err() != nil {
			return
		}
	}
	_ = l.Stop(context.WithoutCancel(ctx), h, 0, step.CauseTimeout)
}

func (l *leases) Configure(ctx context.Context, config json.RawMessage) error {
	if err := l.Driver.Configure(ctx, config); err != nil || l.defect != "lease-needs-it" {
		return err
	}
	names, err := filepath.Glob(filepath.Join(l.dir, "*"+leaseSuffix))
	for _, name := range names {
		var k kept
		data, err := os.ReadFile(name)
		if err == nil && json.Unmarshal(data, &k) == nil {
			if err := l.set(k.Handle, k.Until); err != nil {
				return err
			}
		}
	}
	return err
}

// Exec of "ends-only-what-is-read" keeps time for as long as its caller does.
func (l *leases) Exec(ctx context.Context, h driver.Handle, s driver.ExecSpec, sink driver.Sink) error {
	switch l.defect {
	case "shares-the-workspace":
		if strings.Contains(strings.Join(s.Argv, " "), "/workspace/mine") {
			l.mu.Lock()
			h = l.first
			l.mu.Unlock()
		}
	case "ends-only-what-is-read":
		reading, cancel := context.WithCancel(ctx)
		defer cancel()
		if l.of(h) != 0 {
			go l.end(reading, h)
		}
		if after := s.Timeout; after > 0 {
			s.Timeout = 0
			go func() {
				if wait(reading, after); reading.Err() == nil {
					_ = l.Stop(context.WithoutCancel(reading), h, time.Millisecond, step.CauseTimeout)
				}
			}()
		}
	}
	return l.Driver.Exec(ctx, h, s, sink)
}
