package bench

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// daemon speaks the worker protocol as nofxd does, with its waits, batches and
// connections, and runs nothing: each step ends at once with a little output.
// It has no ledger and no journal on disk.
type daemon struct {
	api         *client.Client
	id          string
	incarnation string
	interval    int64 // of heartbeats, in milliseconds
	lease       int64
	slots       chan struct{} // one value a lease that is held
	taken       func(sent, got time.Time, leases []wire.Lease)
	committed   func(l wire.Lease, at time.Time)

	mu    sync.Mutex
	held  map[string]wire.Lease
	todo  []wire.Lease // to be shipped
	dirty chan struct{}
}

const (
	slotsEach  = 256
	gatherFree = 2 * time.Millisecond // as in daemon/internal/worker
	shipGather = 2 * time.Millisecond
	claimWait  = 20 * time.Second
)

// capabilities are those of the driver local.
func capabilities() []string {
	var out []string
	for _, c := range []driver.Capability{driver.CapCPU, driver.CapMemory, driver.CapPids, driver.CapDisk, driver.CapBlockIO, driver.CapWallTime,
		driver.CapOutput, driver.CapNetNone, driver.CapNetAllow, driver.CapNetOpen, driver.CapIsolationNamespace, driver.CapHost, driver.CapFiles,
		driver.CapTTY, driver.CapMultiExec, driver.CapReattach, driver.CapLease, driver.CapStats} {
		out = append(out, string(c))
	}
	return out
}

func drivers() []wire.DriverInfo {
	return []wire.DriverInfo{{Name: "local", Version: "bench", Healthy: true, Capabilities: capabilities()}}
}

// newDaemon registers one.
func (p *plane) newDaemon(n int) *daemon {
	p.b.Helper()
	d := &daemon{api: p.client("worker"), incarnation: fmt.Sprintf("daemon-%d-%d", n, time.Now().UnixNano()), slots: make(chan struct{}, slotsEach),
		held: map[string]wire.Lease{}, dirty: make(chan struct{}, 1)}
	reg, err := d.api.Register(p.b.Context(), wire.RegisterWorker{Name: fmt.Sprintf("daemon-%d", n), Incarnation: d.incarnation, Version: "bench",
		Slots: slotsEach, Drivers: drivers()})
	if err != nil {
		p.b.Fatal(err)
	}
	d.id, d.interval, d.lease = reg.WorkerID, reg.HeartbeatMS, reg.LeaseMS
	return d
}

// run works until ctx ends.
func (d *daemon) run(ctx context.Context, b *testing.B) {
	var all sync.WaitGroup
	for _, loop := range []func(context.Context) error{d.heartbeats, d.claims, d.ship} {
		all.Go(func() {
			if err := loop(ctx); err != nil && ctx.Err() == nil {
				b.Errorf("daemon: %v", err)
			}
		})
	}
	all.Wait()
}

func (d *daemon) heartbeats(ctx context.Context) error {
	for {
		in := wire.Heartbeat{WorkerID: d.id, Incarnation: d.incarnation, Held: []wire.Fence{}, Drivers: drivers(), WaitMS: d.interval}
		d.mu.Lock()
		for _, l := range d.held {
			in.Held = append(in.Held, l.Fence)
		}
		d.mu.Unlock()
		sent := time.Now()
		if _, err := d.api.Heartbeat(ctx, in); err != nil {
			return err
		}
		// What it held may have ended meanwhile and be told as closed, at once:
		// never in a tight loop.
		if !pause(ctx, time.Duration(d.interval)*time.Millisecond/10-time.Since(sent)) {
			return nil
		}
	}
}

// free takes as many slots as are free, waiting for the first.
func (d *daemon) free(ctx context.Context) int {
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	n := 1
	take := func() {
		for n < wire.MaxClaimBatch {
			select {
			case d.slots <- struct{}{}:
				n++
			default:
				return
			}
		}
	}
	take()
	if n < wire.MaxClaimBatch {
		if !pause(ctx, gatherFree) {
			return 0
		}
		take()
	}
	return n
}

func (d *daemon) claims(ctx context.Context) error {
	for i := 0; ; i++ {
		n := d.free(ctx)
		if n == 0 {
			return nil
		}
		sent := time.Now()
		got, err := d.api.Claim(ctx, wire.ClaimRequest{WorkerID: d.id, Incarnation: d.incarnation, ClaimID: fmt.Sprintf("%s-%d", d.incarnation, i),
			Max: n, WaitMS: min(claimWait.Milliseconds(), d.lease/4), Drivers: []string{"local"}})
		if err != nil {
			return err
		}
		if d.taken != nil && len(got.Leases) > 0 {
			d.taken(sent, time.Now(), got.Leases)
		}
		d.mu.Lock()
		for _, l := range got.Leases {
			d.held[l.AttemptID] = l
		}
		d.todo = append(d.todo, got.Leases...)
		d.mu.Unlock()
		for range n - len(got.Leases) {
			<-d.slots
		}
		select {
		case d.dirty <- struct{}{}:
		default:
		}
	}
}

// ship tells of all that has ended, one request at a time.
func (d *daemon) ship(ctx context.Context) error {
	var last time.Time
	for {
		select {
		case <-d.dirty:
		case <-ctx.Done():
			return nil
		}
		// When the last request is long ago, a step that has ended ships at once.
		if time.Since(last) < 10*shipGather && !pause(ctx, shipGather) {
			return nil
		}
		d.mu.Lock()
		todo := d.todo
		d.todo = nil
		d.mu.Unlock()
		if len(todo) == 0 {
			continue
		}
		in := wire.JournalRequest{WorkerID: d.id, Incarnation: d.incarnation}
		for _, l := range todo {
			in.Batches = append(in.Batches, wire.JournalBatch{Fence: l.Fence, Records: ended()})
		}
		got, err := d.api.Journal(ctx, in)
		if err != nil {
			return err
		}
		if len(got.Acks) != len(todo) || len(got.Discard) > 0 {
			return fmt.Errorf("of %d attempts %d were taken, %d discarded", len(todo), len(got.Acks), len(got.Discard))
		}
		last = time.Now()
		d.mu.Lock()
		for _, l := range todo {
			delete(d.held, l.AttemptID)
		}
		d.mu.Unlock()
		for _, l := range todo {
			if d.committed != nil {
				d.committed(l, last)
			}
			<-d.slots
		}
	}
}

// ended is the journal of a step that has done a little.
func ended() []wire.Record {
	const said = "{\"msg\":\"hello from a step\"}\n"
	now, zero := time.Now(), 0
	v := step.Verdict{Cause: step.CauseExit, ExitCode: &zero, Attested: step.AttestedKernel,
		Usage:  step.Usage{WallMS: 5, CPUUsec: 2000, MemoryPeakBytes: 1 << 20, PidsPeak: 1, OutputBytes: int64(len(said))},
		Output: step.Output{StoredBytes: int64(len(said)), TotalBytes: int64(len(said))}}
	return []wire.Record{
		{N: 1, Type: wire.RecordStarted, At: now, Started: &wire.StartedRecord{Driver: "local", DriverVersion: "bench", SandboxID: "sandbox"}},
		{N: 2, Type: wire.RecordOutput, At: now, Output: &wire.OutputRecord{Stream: wire.Stdout, Data: []byte(said)}},
		{N: 3, Type: wire.RecordVerdict, At: now, Verdict: &wire.VerdictRecord{Verdict: v, Stdout: []byte(said)}},
	}
}

// samples is a Sample for many at once.
type samples struct {
	mu sync.Mutex
	s  Sample
}

func (s *samples) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Times = append(s.s.Times, d)
}

func (s *samples) fail() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Failed++
}

func (s *samples) report(b *testing.B, name string) {
	b.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	b.ReportMetric(s.s.Quantile(0.5), name+"-p50-ms")
	b.ReportMetric(s.s.Quantile(0.99), name+"-p99-ms")
	b.ReportMetric(s.s.Quantile(1), name+"-max-ms")
}
