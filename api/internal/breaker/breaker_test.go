package breaker

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nofx-run/nofx/sdk/step"
)

// let is a step that was let through, as an observer from outside remembers it.
type let struct {
	id         string
	generation int64
	probe      bool
	until      time.Time // of a probe's lease
}

// model is what a breaker must do, told without its machinery: results in the
// order that they came, and who is out.
type model struct {
	t       *rapid.T
	r       Rules
	b       Breaker
	now     time.Time
	out     []let
	since   []Outcome // results that count, since it closed
	opens   int       // since a probe was good
	opened  time.Time
	next    int
	probing string // the probe that counts
}

func (m *model) barred() bool {
	return m.b.State == Open && m.now.Before(m.opened.Add(m.r.cooldown(m.opens)))
}

func (m *model) claim(t *rapid.T) {
	m.next++
	l := let{id: fmt.Sprint("att-", m.next)}
	switch m.b.Admits(m.now) {
	case Nothing:
		if m.b.State == Closed || m.b.State == Open && !m.barred() {
			t.Fatalf("nothing is let through: %+v at %v", m.b, m.now)
		}
		return
	case All:
		if m.b.State != Closed {
			t.Fatalf("all are let through: %+v", m.b)
		}
		l.generation = m.b.Generation
	case OneProbe:
		if m.barred() {
			t.Fatalf("a probe in the cool-down: %+v at %v", m.b, m.now)
		}
		for _, o := range m.out {
			if o.probe && o.id == m.probing && m.now.Before(o.until) {
				t.Fatalf("a second probe beside %+v: %+v", o, m.b)
			}
		}
		m.b = m.b.Lend(l.id, m.r.ProbeLease, m.now)
		l.probe, l.generation, l.until, m.probing = true, m.b.Generation, m.now.Add(m.r.ProbeLease), l.id
		if m.b.Admits(m.now) != Nothing {
			t.Fatalf("room beside a probe: %+v", m.b)
		}
	}
	m.out = append(m.out, l)
}

func (m *model) result(t *rapid.T) {
	if len(m.out) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.out)-1).Draw(t, "which")
	l := m.out[i]
	m.out = append(m.out[:i], m.out[i+1:]...)
	o := rapid.SampledFrom([]Outcome{Neutral, Good, Bad}).Draw(t, "outcome")
	before := m.b
	counts := l.generation == m.b.Generation
	if l.probe {
		next, changed := m.b.Result(m.r, l.id, l.generation, o, m.now)
		if changed != (counts && m.b.State == HalfOpen) {
			t.Fatalf("the result of %+v changed %+v: %v", l, m.b, changed)
		}
		if !changed {
			if diff := cmp.Diff(before, next); diff != "" {
				t.Fatalf("a result that does not count: %s", diff)
			}
			return
		}
		m.b, m.probing = next, ""
		switch o {
		case Good:
			m.opens, m.since = 0, nil
			if m.b.State != Closed || m.b.Opens != 0 {
				t.Fatalf("after a good probe: %+v", m.b)
			}
		case Bad:
			m.opens++
			m.opened = m.now
			m.grown(t, before)
		default:
			if m.b.Admits(m.now) != OneProbe {
				t.Fatalf("no room after a probe that said nothing: %+v", m.b)
			}
		}
		return
	}
	if _, changed := m.b.Result(m.r, l.id, l.generation, o, m.now); changed {
		t.Fatalf("%+v passed as a probe", l)
	}
	if !counts || o == Neutral {
		return
	}
	m.since = append(m.since, o)
	c := Counts{}
	for _, o := range m.since {
		if o == Good {
			c.Good++
			c.Streak = 0
		} else {
			c.Bad++
			c.Streak++
		}
	}
	next, changed := m.b.Count(m.r, c, m.now)
	tripped := c.Streak >= int64(m.r.Consecutive) || c.Good+c.Bad >= int64(m.r.Volume) && float64(c.Bad)/float64(c.Good+c.Bad) >= float64(m.r.Percent)/100
	if changed != (tripped && m.b.State == Closed && !m.b.Forced) {
		t.Fatalf("%+v of %+v: opened %v", c, m.b, changed)
	}
	if changed {
		m.b = next
		m.opens++
		m.opened = m.now
		m.grown(t, before)
	}
}

// grown checks the cool-down of a breaker that has just opened.
func (m *model) grown(t *rapid.T, before Breaker) {
	want := min(float64(m.r.Cooldown)*math.Pow(m.r.Growth, float64(m.opens-1)), float64(m.r.MaxCooldown))
	if got := m.b.ReadyAt.Sub(m.now); m.b.State != Open || math.Abs(float64(got)-want) > 1e3 || m.b.Generation != before.Generation+1 {
		t.Fatalf("opened for the %d. time: %+v, until %v, want %v", m.opens, m.b, got, time.Duration(want))
	}
}

// Never two probes at once, a lease that passes frees the place, results of
// before change nothing, a good probe closes it, the cool-down grows and is
// short again after that.
func TestAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := Rules{
			Window: time.Minute, Volume: rapid.IntRange(1, 8).Draw(t, "volume"), Percent: rapid.IntRange(1, 100).Draw(t, "percent"),
			Consecutive: rapid.IntRange(1, 6).Draw(t, "consecutive"), Cooldown: time.Second, Growth: rapid.Float64Range(1, 4).Draw(t, "growth"),
			MaxCooldown: 20 * time.Second, ProbeLease: 5 * time.Second,
		}
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		m := &model{t: t, r: r, b: Breaker{State: Closed}, now: time.Unix(1_000_000, 0)}
		t.Repeat(map[string]func(*rapid.T){
			"claim":  m.claim,
			"result": m.result,
			"time": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.Int64Range(0, int64(8*time.Second)).Draw(t, "for")))
			},
			"operator": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "seldom") > 0 {
					t.Skip("not this time")
				}
				before := m.b.Generation
				switch rapid.SampledFrom([]string{"reset", "close"}).Draw(t, "what") {
				case "reset":
					m.b = m.b.Reset("asked")
				case "close":
					m.b = m.b.Force(Closed, "asked")
				}
				m.opens, m.since, m.probing = 0, nil, ""
				if m.b.Generation != before+1 || m.b.Admits(m.now) != All {
					t.Fatalf("%+v", m.b)
				}
			},
			"": func(t *rapid.T) {
				if m.b.State == HalfOpen && m.b.Probe != "" && m.now.Before(m.b.ReadyAt) && m.b.Admits(m.now) != Nothing {
					t.Fatalf("room beside a probe: %+v", m.b)
				}
			},
		})
	})
}

func TestForcedOpen(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	b := Breaker{State: Closed}.Force(Open, "asked")
	if got := b.Admits(now.Add(1000 * time.Hour)); got != Nothing || !b.Forced {
		t.Errorf("%+v lets %v through", b, got)
	}
	if b = b.Reset("asked"); b.Admits(now) != All || b.Forced || b.Generation != 2 {
		t.Errorf("after the reset: %+v", b)
	}
	off := Defaults()
	off.Off = true
	if got, changed := b.Count(off, Counts{Bad: 1000, Streak: 1000}, now); changed {
		t.Errorf("a breaker that is off: %+v", got)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	zero, one := 0, 1
	counted := Defaults()
	counted.Counts = []step.Cause{step.CauseExit, step.CauseTimeout}
	for _, tc := range []struct {
		name        string
		v           step.Verdict
		plain, with Outcome
	}{
		{"success", step.Verdict{Cause: step.CauseExit, ExitCode: &zero}, Good, Good},
		{"red", step.Verdict{Cause: step.CauseExit, ExitCode: &one}, Good, Bad},
		{"timeout", step.Verdict{Cause: step.CauseTimeout}, Good, Bad},
		{"oom", step.Verdict{Cause: step.CauseOOM}, Good, Good},
		{"cancelled", step.Verdict{Cause: step.CauseCancelled}, Neutral, Neutral},
		{"policy", step.Verdict{Cause: step.CausePolicy}, Neutral, Neutral},
		{"lost lease", step.Verdict{Cause: step.CauseLost}, Neutral, Neutral},
		{"lost with its driver", step.Verdict{Cause: step.CauseLost, ErrorKind: step.KindUnavailable}, Bad, Bad},
		{"away", step.Verdict{Cause: step.CauseDriverError, ErrorKind: step.KindUnavailable}, Bad, Bad},
		{"broken", step.Verdict{Cause: step.CauseDriverError, ErrorKind: step.KindInternal}, Bad, Bad},
		{"older driver", step.Verdict{Cause: step.CauseDriverError}, Bad, Bad},
		{"bad request", step.Verdict{Cause: step.CauseDriverError, ErrorKind: step.KindInvalid}, Neutral, Neutral},
		{"cannot", step.Verdict{Cause: step.CauseDriverError, ErrorKind: step.KindUnsupported}, Neutral, Neutral},
		{"quota", step.Verdict{Cause: step.CauseDriverError, ErrorKind: step.KindRateLimited}, Neutral, Neutral},
	} {
		if got := Defaults().Judge(tc.v); got != tc.plain {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.plain)
		}
		if got := counted.Judge(tc.v); got != tc.with {
			t.Errorf("%s, counted: %v, want %v", tc.name, got, tc.with)
		}
	}
}

func TestRulesAreBounded(t *testing.T) {
	t.Parallel()
	if err := Defaults().Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Rules){
		"window_ms":       func(r *Rules) { r.Window = MaxWindow + 1 },
		"min_volume":      func(r *Rules) { r.Volume = 0 },
		"failure_percent": func(r *Rules) { r.Percent = 101 },
		"consecutive":     func(r *Rules) { r.Consecutive = -1 },
		"both 0":          func(r *Rules) { r.Percent, r.Consecutive = 0, 0 },
		"cooldown_ms":     func(r *Rules) { r.Cooldown = 0 },
		"cooldown_max_ms": func(r *Rules) { r.MaxCooldown = r.Cooldown - 1 },
		"growth":          func(r *Rules) { r.Growth = math.NaN() },
		"probe_ms":        func(r *Rules) { r.ProbeLease = 0 },
		"counts":          func(r *Rules) { r.Counts = []step.Cause{step.CauseLost} },
	} {
		r := Defaults()
		if change(&r); r.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestLane(t *testing.T) {
	t.Parallel()
	for _, l := range []Lane{{}, {Handler: "gate:*"}, {Handler: "bash", Tenant: "acme"}} {
		if got := ParseLane(l.String()); got != l {
			t.Errorf("%+v became %+v", l, got)
		}
	}
}
