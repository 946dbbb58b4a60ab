package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// fakeDead are the entries that the fake API's DLQ begins with: three of one
// tool and one that was lost.
func fakeDead() []*wire.DeadStepDetail {
	out := make([]*wire.DeadStepDetail, 4)
	for i := range out {
		n, code := i+1, 1
		e := &wire.DeadStepDetail{Inputs: json.RawMessage(fmt.Sprintf(`{"feed":"warehouse-%d\u001b[31m"}`, n)), DeadStep: wire.DeadStep{
			ID: fmt.Sprintf("dead_%d", n), RunID: fmt.Sprintf("run-%d", n), StepID: "step-1", StepName: "feed", Generation: 1, Tool: "test:fail", Driver: "local",
			WorkerID: "w1", Cause: step.CauseExit, Reason: "all of its 2 attempts failed", Attempts: 2, State: wire.DeadOpen,
			CreatedAt: time.Now().Add(-time.Duration(5-n) * time.Hour)}}
		verdict := step.Verdict{Cause: step.CauseExit, ExitCode: &code}
		if n == 4 {
			e.Tool, e.Cause, e.Reason, verdict = "bash", step.CauseLost, "it may have touched the outside", step.Verdict{Cause: step.CauseLost, Message: "the worker is gone"}
		}
		ended := e.CreatedAt
		for a := range 2 {
			e.History = append(e.History, wire.DeadAttempt{Attempt: a + 1, WorkerID: "w1", EndedAt: &ended, Verdict: &verdict})
		}
		out[i] = e
	}
	return out
}

func (f *fakeAPI) deadRoutes(mux *http.ServeMux) {
	f.dead = fakeDead()
	mux.HandleFunc("GET /api/dlq", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		out := wire.DeadList{Entries: []wire.DeadStep{}}
		for _, e := range f.matching(r) {
			if c := r.URL.Query().Get("cursor"); c != "" && e.ID >= c {
				continue
			}
			if fmt.Sprint(len(out.Entries)) == r.URL.Query().Get("limit") {
				out.NextCursor = out.Entries[len(out.Entries)-1].ID
				break
			}
			out.Entries = append(out.Entries, e.DeadStep)
		}
		answer(w, 200, out)
	})
	mux.HandleFunc("GET /api/dlq/export", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		enc := json.NewEncoder(w)
		for _, e := range f.matching(r) {
			_ = enc.Encode(e)
		}
	})
	mux.HandleFunc("POST /api/dlq/{id}/requeue", f.requeue)
	mux.HandleFunc("POST /api/dlq/{id}/discard", func(w http.ResponseWriter, r *http.Request) {
		f.resolve(w, wire.ResolveMany{IDs: []string{r.PathValue("id")}}, wire.DeadDiscarded)
	})
	for path, state := range map[string]string{"requeue": wire.DeadRequeued, "discard": wire.DeadDiscarded} {
		mux.HandleFunc("POST /api/dlq/"+path, func(w http.ResponseWriter, r *http.Request) {
			var in wire.ResolveMany
			dec := json.NewDecoder(r.Body)
			dec.DisallowUnknownFields()
			if err := dec.Decode(&in); err != nil {
				refuse(w, step.Errorf(step.KindInvalid, "%v", err))
				return
			}
			f.resolve(w, in, state)
		})
	}
	retry := f.with(func(w http.ResponseWriter, r *http.Request, run *fakeRun) {
		var in wire.RetryRun
		_ = json.NewDecoder(r.Body).Decode(&in)
		out := wire.Reopened{RunID: run.detail.Run.ID, Status: step.RunRunning}
		for _, s := range run.detail.Steps {
			if sid := r.PathValue("sid"); sid == s.ID || sid == "" && (in.All || s.Status != step.StepSucceeded) {
				out.Steps = append(out.Steps, wire.ReopenedStep{ID: s.ID, Name: s.Name, Status: step.StepQueued, Generation: s.Generation + 1})
			}
		}
		if len(out.Steps) == 0 {
			refuse(w, step.Errorf(step.KindConflict, "no step of the run has failed: it is %s", run.detail.Run.Status))
			return
		}
		answer(w, 200, out)
	})
	mux.HandleFunc("POST /api/runs/{id}/retry", retry)
	mux.HandleFunc("POST /api/runs/{id}/steps/{sid}/retry", retry)
	mux.HandleFunc("GET /api/dlq/{id}", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if e := f.deadStep(r.PathValue("id")); e != nil {
			answer(w, 200, e)
			return
		}
		refuse(w, step.Errorf(step.KindNotFound, "no entry %s in the DLQ", r.PathValue("id")))
	})
}

func (f *fakeAPI) deadStep(id string) *wire.DeadStepDetail {
	for _, e := range f.dead {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// matching are the entries that the query asks for, the newest first.
func (f *fakeAPI) matching(r *http.Request) []*wire.DeadStepDetail {
	q := r.URL.Query()
	since, _ := time.Parse(time.RFC3339Nano, q.Get("since"))
	return f.choose(wire.DeadFilter{Tool: q.Get("tool"), Cause: step.Cause(q.Get("cause")), Driver: q.Get("driver"), Since: since, State: q.Get("state")})
}

func (f *fakeAPI) choose(m wire.DeadFilter) []*wire.DeadStepDetail {
	var out []*wire.DeadStepDetail
	for _, e := range slices.Backward(f.dead) {
		if (m.Tool == "" || e.Tool == m.Tool) && (m.Cause == "" || e.Cause == m.Cause) && (m.Driver == "" || e.Driver == m.Driver) &&
			!e.CreatedAt.Before(m.Since) && (m.State == "all" || e.State == m.State || m.State == "" && e.State == wire.DeadOpen) {
			out = append(out, e)
		}
	}
	return out
}

func (f *fakeAPI) requeue(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var in wire.RequeueDead
	_ = json.NewDecoder(r.Body).Decode(&in)
	e := f.deadStep(r.PathValue("id"))
	switch {
	case e == nil:
		refuse(w, step.Errorf(step.KindNotFound, "no entry %s in the DLQ", r.PathValue("id")))
	case e.State != wire.DeadOpen:
		refuse(w, step.Errorf(step.KindConflict, "entry %s is %s already", e.ID, e.State))
	case in.Driver == "nosuch":
		refuse(w, &step.Error{Kind: step.KindInvalid, Message: "body.driver: is no driver", Fields: []step.FieldError{{Location: "body.driver", Message: "is no driver", Value: in.Driver}}})
	default:
		e.State = wire.DeadRequeued
		if in.Inputs != nil {
			e.Inputs = in.Inputs
		}
		if in.Driver != "" {
			e.Driver = in.Driver
		}
		answer(w, 200, wire.Reopened{RunID: e.RunID, Status: step.RunRunning, Steps: []wire.ReopenedStep{{ID: e.StepID, Name: e.StepName, Status: step.StepQueued, Generation: 2}}})
	}
}

// resolve does two at a time. Of the driver half it is away after those.
func (f *fakeAPI) resolve(w http.ResponseWriter, in wire.ResolveMany, state string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in.Match != nil && in.Match.Driver == "half" {
		if in.Match.Driver = ""; in.Cursor != "" {
			refuse(w, step.Errorf(step.KindUnavailable, "the database is not available"))
			return
		}
	}
	if in.Match != nil {
		for _, e := range f.choose(*in.Match) {
			if in.Cursor == "" || e.ID < in.Cursor {
				in.IDs = append(in.IDs, e.ID)
			}
		}
	}
	out := wire.Resolved{DryRun: in.DryRun, Done: []string{}, Refused: []wire.RefusedOne{}}
	const page = 2
	if in.Match != nil && len(in.IDs) > page {
		in.IDs = in.IDs[:page]
		out.More, out.NextCursor = true, in.IDs[page-1]
	}
	for _, id := range in.IDs {
		e := f.deadStep(id)
		switch {
		case e == nil || e.State != wire.DeadOpen:
			out.Refused = append(out.Refused, wire.RefusedOne{ID: id, Message: "is not open"})
			continue
		case !in.DryRun:
			e.State = state
		}
		out.Done = append(out.Done, id)
	}
	answer(w, 200, out)
}
