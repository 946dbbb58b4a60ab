package strict

import (
	"encoding/json"
	"fmt"
	"reflect"
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

const halved = `has a \u escape that is half of a pair`

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
		`{"name":"\ud83d\ude00 \ufffd \\ud800"}`: "", `{"name":"` + "\ufffd" + `","free":["\uD83D\uDE00"]}`: "",
		`{"name":"a\ud800"}`:                     "body.name: " + halved,
		`{"name":"\udc00\ud800"}`:                "body.name: " + halved,
		`{"name":"\ud800\ud83d\ude00"}`:          "body.name: " + halved,
		`{"name":"\ud800\n\udc00"}`:              "body.name: " + halved,
		`{"name":"a", "free":[1, "\uDFFF"]}`:     "body.free[1]: " + halved,
		`{"words":{"a":"", "\ud800":""}}`:        "body.words.\ufffd: " + halved,
		`["a","\ud800"]`:                         "body[1]: " + halved,
		`{"name":"` + "\xff" + `"}`:              "body.name: is not UTF-8",
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

// What cannot be decoded is told by its place and what belongs there, in no
// words of the decoder's; what can be is fine.
func TestForm(t *testing.T) {
	t.Parallel()
	type form struct {
		sample
		N     int64              `json:"n"`
		Small int8               `json:"small"`
		Count uint16             `json:"count"`
		Most  *int               `json:"most"`
		Part  float64            `json:"part"`
		On    bool               `json:"on"`
		Bytes []byte             `json:"bytes"`
		Any   any                `json:"any"`
		Sums  map[string]float64 `json:"sums"`
	}
	const whole = "must be a whole number, written in digits alone, from "
	for body, want := range map[string]string{
		`{"n":1e3}`:                      "body.n: " + whole + "-9223372036854775808 to 9223372036854775807",
		`{"n":3.0}`:                      "body.n: " + whole + "-9223372036854775808 to 9223372036854775807",
		`{"n":"3"}`:                      "body.n: " + whole + "-9223372036854775808 to 9223372036854775807",
		`{"n":9223372036854775808}`:      "body.n: " + whole + "-9223372036854775808 to 9223372036854775807",
		`{"most":7.5}`:                   "body.most: " + whole + "-9223372036854775808 to 9223372036854775807",
		`{"small":200}`:                  "body.small: " + whole + "-128 to 127",
		`{"count":-1}`:                   "body.count: " + whole + "0 to 65535",
		`{"part":1e400}`:                 "body.part: must be a number within ±1.8e+308",
		`{"part":"0.5"}`:                 "body.part: must be a number within ±1.8e+308",
		`{"any":[1,{"x":1e400}]}`:        "body.any[1].x: must be a number within ±1.8e+308",
		`{"sums":{"a":1,"b":true}}`:      "body.sums.b: must be a number within ±1.8e+308",
		`{"on":"yes"}`:                   "body.on: must be true or false",
		`{"on":1}`:                       "body.on: must be true or false",
		`{"name":7}`:                     "body.name: must be text",
		`{"name":{}}`:                    "body.name: must be text",
		`{"list":{"id":"x"}}`:            "body.list: must be a list",
		`{"list":[[]]}`:                  "body.list[0]: must be an object",
		`{"list":[{"id":"a"},{"id":2}]}`: "body.list[1].id: must be text",
		`{"named":"x"}`:                  "body.named: must be an object",
		`[]`:                             "body: must be an object",
		`7`:                              "body: must be an object",
	} {
		var into form
		if err := json.Unmarshal([]byte(body), &into); err == nil {
			t.Errorf("%s can be decoded", body)
		}
		err := Form([]byte(body), reflect.TypeFor[*form](), "body")
		if got := fmt.Sprint(err); got != want || !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	for _, body := range []string{
		`{"n":-3,"small":-128,"count":0,"most":null,"part":1e3,"on":true,"bytes":"AAAA","any":{"a":[1,"x",false,null]},"sums":{"a":0.5},
			"name":"x","list":null,"free":1e400,"named":{"x":{"id":"y"}},"other":1e400}`,
	} {
		var into form
		if err := json.Unmarshal([]byte(body), &into); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if err := Form([]byte(body), reflect.TypeFor[form](), "body"); err != nil {
			t.Errorf("%s: %v", body, err)
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
