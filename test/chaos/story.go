package chaos

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// tenants submit, each by clients of its own.
var tenants = [...]string{"acme", "umbrella"}

// Story is one run and what is done with it.
type Story struct {
	N       int
	Tenant  string
	API     int // that is asked first
	Plan    wire.Plan
	Key     string        // for idempotency, "" = none
	Twice   bool          // submitted a second time, through another API
	Cancel  time.Duration // after it was accepted; 0 = not
	Follow  bool          // its events are read as they come
	Retry   bool          // once it has failed
	Again   bool          // as a whole, once it has ended
	Requeue bool          // its steps in the DLQ, each pressed twice
	Steps   map[string]Expectation
	Pause   time.Duration // before the next story
}

// Expectation is what a step does, whatever goes wrong around it.
type Expectation struct {
	Verdicts []string // of its attempts, unless infrastructure ends them
	Output   string   // of all of them
	Artifact string   // content of the artifact "kept", "" = none
}

const storyPace = 800 * time.Millisecond // between two of them, on average

// Tell makes the n-th story of a seed.
func Tell(seed uint64, n int) Story {
	r := rand.New(rand.NewPCG(seed, uint64(n)+1))
	s := Story{
		N: n, Tenant: tenants[r.IntN(len(tenants))], API: r.IntN(apis), Steps: map[string]Expectation{},
		Follow: one(r, 3), Pause: time.Duration(r.Int64N(int64(2 * storyPace))),
	}
	s.Plan.Goal = fmt.Sprintf("story-%d", n)
	if !one(r, 4) {
		s.Key = fmt.Sprintf("key-of-story-%d", n)
		s.Twice = one(r, 3)
	}
	if one(r, 6) {
		s.Cancel = time.Millisecond + time.Duration(r.Int64N(int64(3*time.Second)))
	}
	s.Retry, s.Again, s.Requeue = one(r, 2), one(r, 10), one(r, 2)
	for i := range 1 + r.IntN(4) {
		s.add(r, i)
	}
	return s
}

func one(r *rand.Rand, in int) bool { return r.IntN(in) == 0 }

// add draws the plan's next step.
func (s *Story) add(r *rand.Rand, i int) {
	name := fmt.Sprintf("s%d", i)
	st := wire.PlanStep{Name: name, Tool: "bash", Driver: "local", Network: step.NetworkNone}
	p := program{name: name, beats: 1 + r.IntN(20)}
	if i == 0 && one(r, 3) { // it can outlive its lease
		p.beats = 40 + r.IntN(80)
	}
	want := []string{"exit 0"}
	switch k := r.IntN(10); {
	case k < 5: // it succeeds
	case k < 6: // it fails, which nobody tries again
		p.code, want = 5, []string{"exit 5"}
	case k < 7: // it fails always, and lands in the DLQ
		p.code, want = 9, []string{"exit 9"}
		st.Retry = &wire.Retry{Attempts: 2, BackoffMS: 200, ExitCodes: []int{9}}
	case k < 9: // it fails once
		p.once, want = true, []string{"exit 7", "exit 0"}
		st.Retry = &wire.Retry{Attempts: 3, BackoffMS: 300, ExitCodes: []int{7}}
	default: // it takes too long
		p.hang, want = true, []string{"timeout"}
		st.TimeoutMS = 1000 + r.Int64N(2000)
	}
	if one(r, 4) {
		p.bulk = 4<<10 + r.IntN(2<<20)
	}
	if i > 0 && !one(r, 4) {
		before := fmt.Sprintf("s%d", r.IntN(i))
		st.DependsOn = []string{before}
		p.reads = before
	}
	e := Expectation{Verdicts: want, Output: p.output()}
	if one(r, 4) && !p.hang {
		p.keeps = fmt.Sprintf("artifact %d of %s\n", r.Uint64(), s.Plan.Goal)
		e.Artifact = p.keeps
		st.Artifacts = []string{"kept-" + name}
	}
	if one(r, 3) {
		yes := true
		st.Idempotent = &yes
	}
	inputs, err := json.Marshal(map[string]any{"command": p.text()})
	if err != nil {
		panic(err) // strings always marshal
	}
	st.Inputs = inputs
	s.Steps[name] = e
	s.Plan.Steps = append(s.Plan.Steps, st)
}
