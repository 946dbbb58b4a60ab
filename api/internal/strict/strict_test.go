package strict

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

type inner struct {
	ID string `json:"id"`
}

type sample struct {
	inner
	Name  string            `json:"name"`
	List  []inner           `json:"list"`
	Next  *sample           `json:"next"`
	Free  json.RawMessage   `json:"free"`
	At    time.Time         `json:"at"`
	Named map[string]inner  `json:"named"`
	Words map[string]string `json:"words"`
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"name":"a","list":[{"id":"x"},{"id":"y"}],"next":{"name":"b"},"free":{"ID":1,"id":2},"at":"x","words":{"A":"","a":""}}`: "",
		`{}`: "", `[]`: "", `7`: "", `{"name"`: "", ``: "", `{"other":1,"Other":2}`: "",
		`{"name":"a","name":"b"}`:                "body.name: is there twice",
		`{"name":"a","n\u0061me":"b"}`:           "body.name: is there twice",
		`{"Name":"a"}`:                           "body.Name: is not a known field: it is written name",
		`{"ID":"a"}`:                             "body.ID: is not a known field: it is written id",
		`{"list":[{},{"Id":"a"}]}`:               "body.list[1].Id: is not a known field: it is written id",
		`{"next":{"next":{"NEXT":null}}}`:        "body.next.next.NEXT: is not a known field: it is written next",
		`{"free":[{"a":{"b":1,"c":2,"b":3}}]}`:   "body.free[0].a.b: is there twice",
		`{"named":{"x":{"iD":1}}}`:               "body.named.x.iD: is not a known field: it is written id",
		`{"words":{"a":"","a":""}}`:              "body.words.a: is there twice",
		`{"other":1,"other":2}`:                  "body.other: is there twice",
		`{"name":"a","` + "\u017f" + `":1}`:      "", // no field's name
		strings.Repeat(`{"a":`, 20_000) + `1`:    "",
		strings.Repeat(`[`, 1_000_000):           "",
		`{"` + strings.Repeat("k", 200) + `":1}`: "",
	} {
		err := Check[sample]([]byte(body), "body")
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want || err != nil && !step.Is(err, step.KindInvalid) {
			t.Errorf("%.100s: %q, want %q", body, got, want)
		}
	}
}

// What our own code sends passes.
func FuzzOwnBodies(f *testing.F) {
	f.Add("goal", "name", int64(5))
	f.Fuzz(func(t *testing.T, goal, name string, n int64) {
		body, err := json.Marshal(wire.SubmitRun{ProjectID: name, Plan: wire.Plan{Goal: goal, Steps: []wire.PlanStep{{
			Name: name, TimeoutMS: n, Resources: &step.Resources{MemoryMB: n}, Retry: &wire.Retry{Attempts: 1}, Inputs: json.RawMessage(`{"a":{"b":[]}}`)}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := Check[wire.SubmitRun](body, "body"); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	})
}

// A checker finds what Check finds, also below structs that hold each other,
// and by many at once.
func TestChecker(t *testing.T) {
	t.Parallel()
	type node struct {
		Name string  `json:"name"`
		Sub  []*node `json:"sub"`
	}
	c := For[map[string]node]()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := c.Check([]byte(`{"a":{"name":"x","sub":[{"name":"y"}]}}`), "body"); err != nil {
				t.Error(err)
			}
			if err := c.Check([]byte(`{"a":{"sub":[{"sub":[{"Name":"y"}]}]}}`), "body"); !step.Is(err, step.KindInvalid) {
				t.Errorf("%v, want it refused", err)
			}
		})
	}
	all.Wait()
}
