package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Submissions that come at once share transactions. Each has its own answer,
// and a whole run of its own with its audit row; one that is refused takes
// nothing with it.
func TestSubmissionsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const key = "together-together"
	post := func(goal string, header ...string) (int, wire.RunCreated) {
		resp, raw := r.call("POST", "/api/runs", r.keys["acme user"],
			[]byte(`{"plan":{"goal":"`+goal+`","steps":[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","depends_on":["a"]}]}}`), header...)
		var out wire.RunCreated
		if resp.StatusCode == http.StatusCreated {
			if err := json.Unmarshal(raw, &out); err != nil {
				t.Error(err)
			}
		}
		return resp.StatusCode, out
	}
	_, first := post("first", "X-Idempotency-Key", key)
	const each = 15
	var all sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]bool{}
	for i := range each {
		all.Go(func() {
			code, run := post(fmt.Sprint("own ", i))
			if code != http.StatusCreated {
				t.Errorf("status %d", code)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[run.ID] = true
		})
		all.Go(func() {
			if code, _ := post("another body", "X-Idempotency-Key", key); code != http.StatusUnprocessableEntity && code != http.StatusConflict {
				t.Errorf("a key used with another body: status %d", code)
			}
		})
		all.Go(func() {
			if code, run := post("first", "X-Idempotency-Key", key); code != http.StatusConflict && (code != http.StatusCreated || run.ID != first.ID) {
				t.Errorf("a repeat: status %d, run %q, want %q", code, run.ID, first.ID)
			}
		})
	}
	all.Wait()
	if len(ids) != each {
		t.Errorf("%d runs, want %d", len(ids), each)
	}
	for id := range ids {
		want := []step.EventType{step.EventRunCreated, step.EventStepEnqueued}
		if got := r.types(id); !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		if d := r.run(id); len(d.Steps) != 2 || d.Steps[0].Status != step.StepQueued || d.Steps[1].Status != step.StepWaiting {
			t.Errorf("%+v", d.Steps)
		}
	}
	if n := len(r.audited("run.create")); n != each+1 {
		t.Errorf("%d audit rows, want %d", n, each+1)
	}
}
