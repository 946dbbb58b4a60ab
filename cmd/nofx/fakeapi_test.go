package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nofx-run/nofx/cmd/nofx/internal/devcert"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const fakeKey = "nofx_u_0000000000000000000000000000000000000000000"

// fakeAPI answers the user's endpoints over HTTPS. A step's first word says
// what becomes of it; see play.
type fakeAPI struct {
	url    string
	caFile string
	server *http.Server
	served chan error

	mu   sync.Mutex
	runs []*fakeRun
	keys map[string]*fakeRun
	dead []*wire.DeadStepDetail
}

type fakeRun struct {
	detail    wire.RunDetail
	events    []step.Event
	output    map[string][]wire.OutputChunk // by step id
	artifacts map[string][]byte             // by path
	cancelled chan struct{}
	changed   chan struct{} // closed and replaced at each change
	watched   chan struct{} // closed when somebody has the stream's first events
	listed    int           // lists that showed it running
	relisted  chan struct{} // closed at the second of these
	watch     sync.Once
}

func newFakeAPI(dir string) (*fakeAPI, error) {
	files, err := devcert.Ensure(filepath.Join(dir, "tls"), nil, time.Now())
	if err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	api := &fakeAPI{
		url: "https://" + listener.Addr().String(), caFile: files.CA,
		served: make(chan error, 1), keys: map[string]*fakeRun{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/runs", api.submit)
	mux.HandleFunc("GET /api/runs", api.list)
	mux.HandleFunc("GET /api/runs/{id}", api.with(func(w http.ResponseWriter, _ *http.Request, r *fakeRun) { answer(w, 200, r.detail) }))
	mux.HandleFunc("GET /api/runs/{id}/timeline", api.with(func(w http.ResponseWriter, _ *http.Request, r *fakeRun) { answer(w, 200, r.events) }))
	mux.HandleFunc("GET /api/runs/{id}/stream", api.stream)
	mux.HandleFunc("POST /api/runs/{id}/cancel", api.with(api.cancel))
	mux.HandleFunc("GET /api/runs/{id}/steps/{sid}/output", api.with(api.outputs))
	mux.HandleFunc("GET /artifacts/{path...}", api.artifact)
	mux.HandleFunc("GET /api/workers", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, fakeWorkers()) })
	mux.HandleFunc("GET /api/handlers", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, fakeHandlers()) })
	fakeAlertRoutes(mux)
	api.deadRoutes(mux)
	mux.HandleFunc("POST /api/breakers", setBreaker)
	mux.HandleFunc("GET /api/breakers/events", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, wire.BreakerEvents{Events: []wire.BreakerEvent{{Type: step.EventBreakerOpened, Tool: "bash", Driver: "local", Reason: "3 failures in a row"}}})
	})
	api.server = &http.Server{Handler: authenticated(mux), ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
	go func() { api.served <- api.server.ServeTLS(listener, "", "") }()
	return api, nil
}

func (f *fakeAPI) close() {
	f.mu.Lock()
	for _, r := range f.runs {
		r.cancel()
	}
	f.mu.Unlock()
	_ = f.server.Close()
	<-f.served
}

func authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+fakeKey {
			refuse(w, step.Errorf(step.KindUnauthorized, "no valid API key"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, e *step.Error) {
	status := wire.StatusOf(e.Kind)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(wire.Problem{Status: status, Title: http.StatusText(status), Detail: e.Message, Errors: e.Fields})
}

// with finds the run and holds the lock.
func (f *fakeAPI) with(do func(http.ResponseWriter, *http.Request, *fakeRun)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if run := f.find(r.PathValue("id")); run != nil {
			do(w, r, run)
			return
		}
		refuse(w, step.Errorf(step.KindNotFound, "no such run"))
	}
}

func (f *fakeAPI) find(id string) *fakeRun {
	for _, r := range f.runs {
		if r.detail.Run.ID == id {
			return r
		}
	}
	return nil
}

func (f *fakeAPI) submit(w http.ResponseWriter, r *http.Request) {
	var in wire.SubmitRun
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		refuse(w, step.Errorf(step.KindInvalid, "%v", err))
		return
	}
	var wrong []step.FieldError
	for i, s := range in.Plan.Steps {
		if s.Tool != "exec" && s.Tool != "bash" {
			wrong = append(wrong, step.FieldError{Location: fmt.Sprintf("body.plan.steps[%d].tool", i), Message: "is not a known tool", Value: s.Tool})
		}
	}
	if len(wrong) > 0 {
		e := step.Errorf(step.KindInvalid, "%s: %s", wrong[0].Location, wrong[0].Message)
		e.Fields = wrong
		refuse(w, e)
		return
	}
	f.mu.Lock()
	key := r.Header.Get("X-Idempotency-Key")
	run := f.keys[key]
	if run == nil {
		run = f.create(in)
		f.keys[key] = run
		go f.play(run)
	}
	f.mu.Unlock()
	if words(in.Plan.Steps[0].Inputs)[0] == "hold" {
		select {
		case <-run.relisted:
		case <-r.Context().Done():
			return
		}
	}
	answer(w, 201, wire.RunCreated{ID: run.detail.Run.ID, Status: step.RunQueued, ProjectID: in.ProjectID})
}

func (f *fakeAPI) create(in wire.SubmitRun) *fakeRun {
	id := fmt.Sprintf("run-%d", len(f.runs)+1)
	run := &fakeRun{
		output: map[string][]wire.OutputChunk{}, artifacts: map[string][]byte{},
		cancelled: make(chan struct{}), changed: make(chan struct{}), watched: make(chan struct{}), relisted: make(chan struct{}),
	}
	run.detail = wire.RunDetail{
		Run:       wire.RunSummary{ID: id, Status: step.RunQueued, Title: in.Plan.Goal, CreatedAt: time.Now()},
		Artifacts: []wire.ArtifactInfo{},
	}
	run.detail.Run.Priority, run.detail.Run.StartAt = in.Plan.Priority, in.Plan.StartAt
	if d := in.Plan.DelayMS; d > 0 {
		run.detail.Run.WaitingFor = fmt.Sprintf("%d ms", d)
	}
	for i, s := range in.Plan.Steps {
		run.detail.Steps = append(run.detail.Steps, wire.StepDetail{
			ID: fmt.Sprintf("step-%d", i+1), Name: s.Name, Tool: s.Tool, Driver: s.Driver, Status: step.StepQueued,
			Generation: 1, Region: in.Plan.Region, Regions: in.Plan.Regions, Inputs: s.Inputs, DependsOn: s.DependsOn, TimeoutMS: s.TimeoutMS, CreatedAt: time.Now(),
		})
	}
	f.runs = append(f.runs, run)
	run.event(step.EventRunCreated, "")
	return run
}

func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	out := wire.RunList{Runs: []wire.RunSummary{}}
	for i := len(f.runs) - 1 - from; i >= 0; i-- {
		if len(out.Runs) == limit {
			out.NextCursor = strconv.Itoa(from + limit)
			break
		}
		out.Runs = append(out.Runs, f.runs[i].detail.Run)
		if f.runs[i].detail.Run.Status == step.RunRunning {
			if f.runs[i].listed++; f.runs[i].listed == 2 {
				close(f.runs[i].relisted)
			}
		}
	}
	answer(w, 200, out)
}

func (f *fakeAPI) cancel(w http.ResponseWriter, _ *http.Request, run *fakeRun) {
	if run.detail.Run.Status.Terminal() {
		refuse(w, step.Errorf(step.KindConflict, "the run has ended"))
		return
	}
	run.cancel()
	answer(w, 200, wire.CancelResult{ID: run.detail.Run.ID, Status: step.RunCancelled})
}

func (r *fakeRun) cancel() {
	select {
	case <-r.cancelled:
	default:
		close(r.cancelled)
	}
}

func (f *fakeAPI) outputs(w http.ResponseWriter, r *http.Request, run *fakeRun) {
	offset, _ := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	sid := r.PathValue("sid")
	page := wire.OutputPage{NextOffset: offset, Attempt: 1}
	for _, c := range run.output[sid] {
		if c.Offset >= offset {
			page.Chunks = append(page.Chunks, c)
			page.NextOffset = c.Offset + int64(len(c.Data))
		}
	}
	for _, s := range run.detail.Steps {
		if s.ID == sid {
			page.Done = s.Status.Terminal()
		}
	}
	answer(w, 200, page)
}

// stream sends the events in batches until the run has ended.
func (f *fakeAPI) stream(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	run := f.find(r.PathValue("id"))
	f.mu.Unlock()
	if run == nil {
		refuse(w, step.Errorf(step.KindNotFound, "no such run"))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	sent := 0
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		sent, _ = strconv.Atoi(strings.TrimPrefix(last, "event-"))
	}
	for name := "init"; ; name = "append" {
		f.mu.Lock()
		batch, changed, ended := run.events[sent:], run.changed, run.detail.Run.Status.Terminal()
		f.mu.Unlock()
		body, _ := json.Marshal(batch)
		fmt.Fprintf(w, "event: %s\nid: event-%d\ndata: %s\n\n", name, sent+len(batch), body)
		_ = http.NewResponseController(w).Flush()
		run.watch.Do(func() { close(run.watched) })
		sent += len(batch)
		if ended {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (r *fakeRun) event(typ step.EventType, name string) {
	seq := int64(len(r.events) + 1)
	r.events = append(r.events, step.Event{
		ID: fmt.Sprintf("event-%d", seq), Seq: seq, Type: typ, EventType: typ,
		RunID: r.detail.Run.ID, StepName: name, CreatedAt: time.Now(),
	})
	close(r.changed)
	r.changed = make(chan struct{})
}

// play runs the steps one after the other. The first word of argv says what a
// step does:
//
//	say OUT ERR CODE   writes and exits
//	note NAME PATH     adds the worker's note about an artifact
//	cat                writes its standard input
//	keep NAME TEXT [CODE]   leaves an artifact and exits
//	timeout oom segv lost truncated   ends so
//	limit              writes its wall time
//	wait               until it is cancelled
//	hold               so, and it is submitted when two lists have shown it running
//	vanish             the API is never there again
//	pause              for half a second
func (f *fakeAPI) play(run *fakeRun) {
	status := step.RunSucceeded
	for i := range run.detail.Steps {
		f.mu.Lock()
		s := &run.detail.Steps[i]
		if s.Driver == "ghost" { // which no live worker has
			s.WaitingFor = "a worker with the driver ghost: no live one has it healthy"
			f.mu.Unlock()
			<-run.cancelled
			f.mu.Lock()
			s.WaitingFor, s.Status, status = "", step.StepCancelled, step.RunCancelled
			f.mu.Unlock()
			continue
		}
		now := time.Now()
		s.Status, s.Attempt, s.StartedAt = step.StepRunning, 1, &now
		run.detail.Run.Status = step.RunRunning
		run.event(step.EventStepStarted, s.Name)
		argv := words(s.Inputs)
		f.mu.Unlock()

		switch argv[0] {
		case "wait", "hold":
			<-run.cancelled
		case "vanish": // the API is gone for good, once the run is known to whom it may concern
			<-run.watched
			_ = f.server.Close()
			<-run.cancelled
		case "pause":
			<-time.After(500 * time.Millisecond)
		}

		f.mu.Lock()
		v := run.end(s, argv)
		end := time.Now()
		s.Verdict, s.Status, s.EndedAt = &v, v.StepStatus(), &end
		run.event(step.EventStepFinished, s.Name)
		if !v.Success() {
			status = step.RunFailed
		}
		if v.Cause == step.CauseCancelled {
			status = step.RunCancelled
		}
		f.mu.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	end := time.Now()
	run.detail.Run.Status, run.detail.Run.EndedAt = status, &end
	run.event(map[step.RunStatus]step.EventType{
		step.RunSucceeded: step.EventRunSucceeded, step.RunFailed: step.EventRunFailed, step.RunCancelled: step.EventRunCancelled,
	}[status], "")
}

func words(inputs json.RawMessage) []string {
	var in struct {
		Argv    []string
		Command string
	}
	_ = json.Unmarshal(inputs, &in)
	if len(in.Argv) > 0 {
		return in.Argv
	}
	return append(strings.Fields(in.Command), "")
}

func (r *fakeRun) end(s *wire.StepDetail, argv []string) step.Verdict {
	v := step.Verdict{Cause: step.CauseExit, Attested: step.AttestedKernel,
		Usage: step.Usage{WallMS: 1234, CPUUsec: 56_000, MemoryPeakBytes: 7 << 20, PidsPeak: 3}}
	code := 0
	switch argv[0] {
	case "say":
		r.write(s, wire.Stdout, argv[1])
		r.write(s, wire.Stderr, argv[2])
		code, _ = strconv.Atoi(argv[3])
	case "cat":
		var in struct{ Stdin string }
		_ = json.Unmarshal(s.Inputs, &in)
		r.write(s, wire.Stdout, in.Stdin)
	case "keep":
		r.keep(s, argv[1], argv[2])
		if len(argv) > 3 {
			code, _ = strconv.Atoi(argv[3])
		}
	case "note":
		r.event("step.note", s.Name)
		r.events[len(r.events)-1].Payload = map[string]any{"name": argv[1], "payload": map[string]any{"path": argv[2]}}
	case "mutter":
		r.write(s, wire.Stderr, argv[1])
		last := &r.output[s.ID][len(r.output[s.ID])-1]
		last.Data = last.Data[:len(last.Data)-1] // in the middle of a line
		if argv[2] == "timeout" {
			v.Cause = step.CauseTimeout
		} else {
			code, _ = strconv.Atoi(argv[2])
		}
	case "limit":
		r.write(s, wire.Stdout, strconv.FormatInt(s.TimeoutMS, 10)+" ms asked for")
	case "timeout":
		v.Cause, v.Message = step.CauseTimeout, "ran longer than 30s"
	case "oom":
		v.Cause = step.CauseOOM
	case "segv":
		v.Cause, v.Signal = step.CauseSignal, "SIGSEGV"
	case "lost":
		v.Cause, v.Message = step.CauseLost, "the worker is gone"
	case "wait", "hold":
		v.Cause = step.CauseCancelled
	case "truncated":
		v.Output = step.Output{StoredBytes: 1024, TotalBytes: 4096, Truncated: true}
	}
	if v.Cause == step.CauseExit {
		v.ExitCode = &code
	}
	return v
}

func (r *fakeRun) write(s *wire.StepDetail, stream wire.Stream, text string) {
	var offset int64
	for _, c := range r.output[s.ID] {
		offset += int64(len(c.Data))
	}
	if text != "" {
		r.output[s.ID] = append(r.output[s.ID], wire.OutputChunk{
			StepID: s.ID, StepName: s.Name, Attempt: 1, Offset: offset, Stream: stream, Data: []byte(text + "\n"),
		})
	}
}

func fakeWorkers() wire.WorkerList {
	return wire.WorkerList{Workers: []wire.WorkerInfo{
		{ID: "w1", Name: "host-1", Status: "live", Region: "local", Version: "v1", Slots: 4, Held: 1, LastSeen: time.Now(),
			Drivers: []wire.DriverInfo{{Name: "local", Version: "1", Healthy: true, Capabilities: []string{"cap.cpu"}},
				{Name: "e2b", Version: "2", Healthy: true, Region: "us-1", Capabilities: []string{}}}},
		{ID: "w2", Name: "host-2", Status: "lost", LastSeen: time.Now().Add(-time.Hour),
			Drivers: []wire.DriverInfo{{Name: "ghost", Capabilities: []string{}}}},
	}}
}

func fakeHandlers() wire.HandlerList {
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return wire.HandlerList{Handlers: []wire.HandlerInfo{
		{Tool: "exec", Description: "runs a program", DefaultDriver: "local", TimeoutMS: 30000, Resources: step.Resources{CPU: 1, MemoryMB: 512, Pids: 128}, Inputs: json.RawMessage(`{}`),
			Breakers: []wire.BreakerInfo{{Driver: "local", State: "closed"}}},
		{Tool: "bash", Description: "runs a script", DefaultDriver: "local", TimeoutMS: 30000, Inputs: json.RawMessage(`{}`),
			Breakers: []wire.BreakerInfo{
				{Driver: "container", State: "open", Forced: true, Reason: "an operator's force-open"},
				{Driver: "local", State: "open", Reason: "3 failures in a row", ReadyAt: &until},
			}},
	}}
}
