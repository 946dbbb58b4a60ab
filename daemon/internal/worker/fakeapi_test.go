package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// fakeAPI is a control API over real HTTPS that does what a test tells it and
// checks what every API would: fences, contiguous numbers, one verdict.
type fakeAPI struct {
	t   *testing.T
	srv *httptest.Server

	mu          sync.Mutex
	changed     chan struct{} // closed and renewed at each change
	queue       []wire.Lease
	claims      map[string][]wire.Lease
	attempts    map[string]*fakeAttempt
	released    []string
	ended       map[string]bool // runs
	down        bool            // every call answers 503
	noJournal   bool            // journals do
	journals    int             // that came
	noUploads   bool            // those of artifacts do
	uploads     int             // that were tried
	noLayers    bool            // those that are asked for come with 503
	fetches     int             // of layers, that were tried
	slow        bool            // register waits a while for uploads
	artifacts   map[string]string
	leaseMS     int64
	heartbeatMS int64
	incarnation string
	drivers     []wire.DriverInfo // as last told
	barriers    []wire.Barrier
	beats       int                                                       // that came
	old         func(wire.JournalBatch) bool                              // the API knows no refusals, and refuses a request with such a batch
	unstored    func(wire.JournalBatch) bool                              // what cannot be stored now
	lost        bool                                                      // the worker counts as lost: claims are refused until it registers again
	untold      int                                                       // claims for a driver that was not told of as healthy
	refuse      func(wire.JournalBatch, wire.Record) *wire.JournalRefusal // what cannot be stored; nil = nothing
	lose        bool                                                      // the next leases go out with an answer that is lost, and have expired when it is asked for again
}

type fakeAttempt struct {
	lease     wire.Lease
	records   []wire.Record
	output    []byte
	verdict   *wire.VerdictRecord
	cancel    bool
	closed    bool
	heartbeat int
}

func newFakeAPI(t *testing.T) *fakeAPI {
	t.Helper()
	f := &fakeAPI{
		t: t, changed: make(chan struct{}), claims: map[string][]wire.Lease{}, attempts: map[string]*fakeAttempt{},
		ended: map[string]bool{}, artifacts: map[string]string{}, leaseMS: 20_000, heartbeatMS: 100,
	}
	mux := http.NewServeMux()
	handle(f, mux, "register", f.register)
	handle(f, mux, "claims", f.claim)
	handle(f, mux, "heartbeat", f.beat)
	handle(f, mux, "journal", f.journal)
	handle(f, mux, "release", f.release)
	mux.HandleFunc("PUT /api/worker/artifacts/{attempt}/{sha}", f.artifact)
	mux.HandleFunc("GET /api/worker/layers/{attempt}/{seq}", f.layer)
	f.srv = httptest.NewTLSServer(mux)
	t.Cleanup(f.srv.Close)
	return f
}

func handle[In, Out any](f *fakeAPI, mux *http.ServeMux, path string, do func(*http.Request, In) (Out, int)) {
	mux.HandleFunc("POST /api/worker/"+path, func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			f.t.Errorf("%s: %v", path, err)
		}
		f.mu.Lock()
		down := f.down
		f.mu.Unlock()
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		out, status := do(r, in)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(out)
	})
}

func (f *fakeAPI) client() *client.Client {
	f.t.Helper()
	c, err := client.New(client.Options{
		BaseURL: f.srv.URL, Key: "nofx_w_test",
		RootCAs: f.srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.Close)
	return c
}

// change lets f be changed and wakes everybody who waits for a change.
func (f *fakeAPI) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	close(f.changed)
	f.changed = make(chan struct{})
}

// until waits for a condition over f, which is looked at under its lock.
func (f *fakeAPI) until(what string, ok func() bool) {
	f.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		done, changed := ok(), f.changed
		f.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			f.t.Fatalf("not reached: %s", what)
		}
	}
}

func (f *fakeAPI) wait(r *http.Request, ms int64, ok func() bool) {
	timer := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer timer.Stop()
	for {
		f.mu.Lock()
		done, changed := ok(), f.changed
		f.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (f *fakeAPI) submit(l wire.Lease) {
	l.LeaseMS = f.leaseMS
	f.change(func() {
		f.queue = append(f.queue, l)
		f.attempts[l.AttemptID] = &fakeAttempt{lease: l}
	})
}

func (f *fakeAPI) register(r *http.Request, in wire.RegisterWorker) (wire.WorkerRegistered, int) {
	if f.slow {
		f.wait(r, 500, func() bool { return f.uploads > 0 })
	}
	f.change(func() { f.lost, f.incarnation, f.drivers = f.lost && f.incarnation == "", in.Incarnation, in.Drivers })
	return wire.WorkerRegistered{WorkerID: "w1", InstallationID: "inst", LeaseMS: f.leaseMS, HeartbeatMS: f.heartbeatMS}, 200
}

func (f *fakeAPI) claim(r *http.Request, in wire.ClaimRequest) (wire.ClaimResponse, int) {
	f.mu.Lock()
	for _, name := range in.Drivers {
		if !slices.ContainsFunc(f.drivers, func(d wire.DriverInfo) bool { return d.Name == name && d.Healthy }) {
			f.untold++
		}
	}
	again, repeated := f.claims[in.ClaimID]
	lost := f.lost
	f.mu.Unlock()
	if lost {
		return wire.ClaimResponse{}, http.StatusConflict
	}
	if repeated {
		return wire.ClaimResponse{Leases: again}, 200
	}
	f.wait(r, in.WaitMS, func() bool { return len(f.queue) > 0 })
	var out wire.ClaimResponse
	status := http.StatusOK
	f.change(func() {
		n := min(in.Max, len(f.queue))
		if in.Incarnation != f.incarnation {
			n = 0 // of a process that is gone
		}
		if f.lose && n > 0 {
			f.lose, f.queue, f.claims[in.ClaimID] = false, f.queue[n:], nil
			status = http.StatusServiceUnavailable
			return
		}
		out.Leases = append([]wire.Lease{}, f.queue[:n]...)
		f.queue = f.queue[n:]
		if n > 0 {
			f.claims[in.ClaimID] = out.Leases
		}
	})
	return out, status
}

func (f *fakeAPI) beat(r *http.Request, in wire.Heartbeat) (wire.HeartbeatAnswer, int) {
	if in.Incarnation != f.current() {
		return wire.HeartbeatAnswer{}, 409
	}
	f.change(func() { f.drivers = in.Drivers; f.beats++ })
	f.wait(r, in.WaitMS, func() bool {
		for _, h := range in.Held {
			if a := f.attempts[h.AttemptID]; a == nil || a.closed || a.cancel {
				return true
			}
		}
		return false
	})
	out := wire.HeartbeatAnswer{LeaseMS: f.leaseMS}
	f.change(func() {
		out.Barriers = f.barriers
		for _, h := range in.Held {
			a := f.attempts[h.AttemptID]
			if a == nil || a.closed || a.lease.Fence != h {
				out.Closed = append(out.Closed, h.AttemptID)
				continue
			}
			a.heartbeat++
			out.Renewed = append(out.Renewed, h.AttemptID)
			if a.cancel {
				out.Cancel = append(out.Cancel, wire.CancelOrder{AttemptID: h.AttemptID, Reason: "test", GraceMS: 50})
			}
		}
		for _, run := range in.Runs {
			if f.ended[run] {
				out.Ended = append(out.Ended, run)
			}
		}
	})
	return out, 200
}

func (f *fakeAPI) current() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.incarnation
}

func (f *fakeAPI) journal(_ *http.Request, in wire.JournalRequest) (wire.JournalAnswer, int) {
	var out wire.JournalAnswer
	var away, refused bool
	f.change(func() {
		f.journals++
		away, refused = f.noJournal, f.old != nil && slices.ContainsFunc(in.Batches, f.old)
	})
	if away {
		return out, http.StatusServiceUnavailable
	}
	if refused {
		return out, http.StatusUnprocessableEntity
	}
	f.change(func() {
	batches:
		for _, b := range in.Batches {
			a := f.attempts[b.AttemptID]
			if a == nil || a.closed || a.lease.Fence != b.Fence {
				out.Discard = append(out.Discard, b.AttemptID)
				continue
			}
			if f.unstored != nil && f.unstored(b) {
				continue
			}
			for _, rec := range b.Records {
				if rec.N != int64(len(a.records)+1) {
					continue // a repeat, or a gap
				}
				if a.verdict != nil {
					f.t.Errorf("record %d of %s follows its verdict", rec.N, b.AttemptID)
				}
				if f.refuse != nil && in.Refusals {
					if r := f.refuse(b, rec); r != nil {
						r.AttemptID, r.N = b.AttemptID, rec.N
						out.Refused = append(out.Refused, *r)
						out.Acks = append(out.Acks, wire.JournalAck{AttemptID: b.AttemptID, N: int64(len(a.records))})
						continue batches
					}
				}
				a.records = append(a.records, rec)
				if rec.Output != nil {
					if rec.Output.Offset != int64(len(a.output)) {
						f.t.Errorf("output of %s at %d, want %d", b.AttemptID, rec.Output.Offset, len(a.output))
					}
					a.output = append(a.output, rec.Output.Data...)
				}
				a.verdict = rec.Verdict
			}
			out.Acks = append(out.Acks, wire.JournalAck{AttemptID: b.AttemptID, N: int64(len(a.records)), Ended: a.verdict != nil,
				Saved: a.verdict != nil && a.verdict.Layer != nil})
		}
	})
	return out, 200
}

func (f *fakeAPI) release(_ *http.Request, in wire.ReleaseRequest) (wire.ReleaseAnswer, int) {
	var out wire.ReleaseAnswer
	f.change(func() {
		for _, l := range in.Leases {
			f.released = append(f.released, l.AttemptID)
			out.Released = append(out.Released, l.AttemptID)
		}
	})
	return out, 200
}

func (f *fakeAPI) artifact(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	sum := sha256.Sum256(raw)
	if err != nil || hex.EncodeToString(sum[:]) != r.PathValue("sha") {
		f.t.Errorf("artifact %s: %v", r.PathValue("sha"), err)
	}
	status := http.StatusNoContent
	f.change(func() {
		f.uploads++
		switch {
		case f.noUploads:
			status = http.StatusServiceUnavailable
		case r.Header.Get("Nofx-Incarnation") != f.incarnation:
			status = http.StatusConflict
		default:
			f.artifacts[r.PathValue("sha")] = string(raw)
		}
	})
	w.WriteHeader(status)
}

// layer answers with one of the attempt's lease.
func (f *fakeAPI) layer(w http.ResponseWriter, r *http.Request) {
	status, body := http.StatusConflict, ""
	f.change(func() {
		f.fetches++
		a := f.attempts[r.PathValue("attempt")]
		if a == nil || a.closed || r.Header.Get("Nofx-Incarnation") != f.incarnation {
			return
		}
		if f.noLayers {
			status = http.StatusServiceUnavailable
			return
		}
		for _, l := range a.lease.Layers {
			if strconv.Itoa(l.Seq) == r.PathValue("seq") {
				status, body = http.StatusOK, f.artifacts[l.SHA256]
			}
		}
	})
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// verdict waits for the attempt's verdict and returns its attempt.
func (f *fakeAPI) verdict(id string) *fakeAttempt {
	f.t.Helper()
	f.until("verdict of "+id, func() bool { return f.attempts[id].verdict != nil })
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.attempts[id]
}

func lease(id string, argv ...string) wire.Lease {
	return wire.Lease{
		Fence:    wire.Fence{AttemptID: id, Generation: 1, Attempt: 1, Epoch: 1},
		TenantID: "acme", RunID: "run-1", StepID: "s-" + id, StepName: id, Tool: "exec", Driver: "memory",
		Command: wire.Command{Argv: argv, Env: map[string]string{"PATH": "/bin", "A": "b"}}, Network: step.NetworkNone,
		Resources: step.Resources{OutputKB: 1 << 20}, OnOutput: step.OutputTruncate, Workspace: step.WorkspaceStep,
		TimeoutMS: 60_000, GraceMS: 50,
	}
}

func text(a *fakeAttempt) string { return strings.TrimSpace(string(a.output)) }
