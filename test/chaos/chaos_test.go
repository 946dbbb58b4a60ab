package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/test/fleet"
	"github.com/nofx-run/nofx/test/invariant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, fleet.Abandoned()...) }

// slice is how long faults go on when nothing else is asked for.
const slice = 60 * time.Second

// settings are NOFX_CHAOS_SEED and NOFX_CHAOS_TIME.
func settings(t *testing.T) (seed uint64, within time.Duration) {
	t.Helper()
	seed, within = uint64(rand.Uint32()), slice
	var err error
	if text := os.Getenv("NOFX_CHAOS_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("NOFX_CHAOS_SEED: %v", err)
		}
	}
	if text := os.Getenv("NOFX_CHAOS_TIME"); text != "" {
		if within, err = time.ParseDuration(text); err != nil {
			t.Fatalf("NOFX_CHAOS_TIME: %v", err)
		}
	}
	return seed, within
}

func TestChaos(t *testing.T) {
	seed, within := settings(t)
	t.Logf("seed %d: NOFX_CHAOS_SEED=%d NOFX_CHAOS_TIME=%v make chaos", seed, seed, within)
	dir := fleet.Dir(t)
	log, err := os.Create(filepath.Join(dir, "chaos.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	rec := newRecord(log)
	rec.note("seed %d, %v", seed, within)
	f, err := fleet.Start(t.Context(), config(t, dir, rec))
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	}
	defer stop()
	if err != nil {
		t.Fatal(err)
	}
	var recorders []*invariant.Recorder
	for i, d := range f.Daemons {
		r := invariant.Record(filepath.Join(d.Data(), "work"))
		defer r.Close()
		r.Torn = i == full
		recorders = append(recorders, r)
	}
	l := &load{rec: rec, told: map[string]Story{}}
	if l.clients, err = dial(f); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, c := range slices.Concat(slices.Collect(maps.Values(l.clients))...) {
			c.Close()
		}
	}()

	j := &injector{fleet: f, rec: rec, done: map[string]int{}}
	telling, hush := context.WithTimeout(t.Context(), within)
	defer hush()
	living, abort := context.WithCancel(t.Context())
	defer abort()
	loaded := make(chan struct{})
	go func() { l.run(living, telling, seed); close(loaded) }()
	j.run(telling, Schedule(seed, within))
	<-telling.Done()
	rec.note("the time is over")
	if err := mend(t.Context(), f, rec); err != nil {
		rec.violated("I1 not mended: %v", err)
	}
	by := time.Now().Add(endBound)
	select {
	case <-loaded:
	case <-time.After(time.Until(by)):
		rec.violated("I1 stories have not ended %v after everything was mended", endBound)
		abort()
		<-loaded
	}
	if err := end(t.Context(), f, by); err != nil {
		rec.violated("I1 %v", err)
	}
	sweep(t.Context(), f, rec)
	known := map[invariant.Effect]bool{}
	for _, r := range recorders {
		effects, err := r.Effects()
		if err != nil {
			t.Error(err)
		}
		for _, e := range effects {
			// It may have come here with its run's workspace: its time says on
			// which host it was.
			if e.At > uptime()+aheadBy.Seconds()/2 {
				e.At -= aheadBy.Seconds()
			}
			if known[e] {
				continue
			}
			known[e] = true
			rec.with(func(h *invariant.History) { h.Effects = append(h.Effects, e) })
		}
	}
	if rec.h.Tables, err = invariant.Dump(t.Context(), f.Postgres.Admin()); err != nil {
		t.Fatal(err)
	}
	stop()
	report(t, rec, l, j, dir)
}

const aheadBy = 24 * time.Hour

func config(t *testing.T, dir string, rec *record) fleet.Config {
	handlers, err := filepath.Abs(filepath.Join("testdata", "handlers"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := fleet.Config{
		Dir: dir, Bin: fleet.Holdable(t), APIs: apis, Hosts: make([]fleet.Host, hosts), Tenants: tenants[:],
		Lease: lease, Heartbeat: heartbeat,
		Env:  []string{"NOFX_HANDLERS_DIR=" + handlers, "NOFX_WORKSPACE_WAIT=10s", "NOFX_WORKSPACE_KEEP=10s", "NOFX_DRIVER_WAIT=60s"},
		Note: func(name, what string) { rec.note("%s: %s", name, what) },
	}
	cfg.Hosts[full].DiskMB, cfg.Hosts[ahead].Clock = 96, aheadBy
	return cfg
}

// report judges the history, writes it down, and says what came of it.
func report(t *testing.T, rec *record, l *load, j *injector, dir string) {
	t.Helper()
	var wrong []string
	for _, v := range invariant.Check(rec.h) {
		wrong = append(wrong, v.String())
	}
	wrong = append(wrong, rec.wrong...)
	wrong = append(wrong, judge(rec.h.Tables, l.told, map[string]bool{fmt.Sprintf("host-%d", full): true})...)
	file, err := os.Create(filepath.Join(dir, "history.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := rec.h.Write(file); err != nil {
		t.Error(err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
	ends := map[string]int{}
	for _, s := range rec.h.Tables.Steps {
		ends[string(s.Status)]++
	}
	verdicts := map[string]int{}
	for _, a := range rec.h.Tables.Attempts {
		switch {
		case a.Verdict != nil:
			verdicts[a.Verdict.String()]++
		default:
			verdicts[a.Status]++
		}
	}
	t.Logf("accepted: %d runs with %d steps; steps in the end: %s", l.accepted, l.steps, counts(ends))
	t.Logf("attempts: %s", counts(verdicts))
	t.Logf("faults: %s", counts(j.done))
	t.Logf("evidence: %d effects, %d events read, %d outputs, %d entries in the DLQ", len(rec.h.Effects), len(rec.h.Events), len(rec.h.Outputs), len(rec.h.Tables.Dead))
	t.Logf("violations: %d", len(wrong))
	for _, w := range wrong {
		t.Error(w)
	}
}

// counts is a map as text, the most first.
func counts(m map[string]int) string {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a] != m[b] {
			return m[b] - m[a]
		}
		return strings.Compare(a, b)
	})
	for i, k := range keys {
		keys[i] = fmt.Sprintf("%s %d", k, m[k])
	}
	return strings.Join(keys, ", ")
}
