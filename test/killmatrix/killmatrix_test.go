package killmatrix

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/failpoint"
)

// all has every cell hit, and the table written.
func all() bool { return os.Getenv("NOFX_KILLMATRIX") == "all" }

// number is a setting from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s: %q is no number from 1 on", name, text)
	}
	return n
}

// binaries are those with failpoints.
func binaries(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/failpoints")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A step that could have touched the outside is not run again when its sandbox is
// gone, but is put into the DLQ, once. The death of the daemon is no reason.
func TestOutside(t *testing.T) {
	build(t, "../..")
	p := place{title: "in the middle of output, with a network", point: failpoint.Output, pass: true, boxed: true, net: true}
	l := newLab(t, binaries(t))
	for n, v := range victims() {
		if v.title != "supervisor" && v.title != "nofxd" {
			continue
		}
		o := l.round(p, v, n)
		o.log(t, shift{p, n}, v)
		if o.missed != "" || len(o.wrong)+len(o.again)+len(o.broken) > 0 {
			t.Errorf("%s: %s", v.title, o.missed)
		}
		if want := map[string]int{"supervisor": 1, "nofxd": 2}[v.title]; len(o.attempts) != want {
			t.Errorf("%s: attempts %v, want %d of both steps together", v.title, o.attempts, want)
		}
	}
}

// build makes the binaries with failpoints of a tree.
func build(t *testing.T, tree string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", tree, "failpoints").CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
}

// shift is a place and a round: all victims get their turn at it, one after the
// other, so that a process has time to be calm until it is its turn again.
type shift struct {
	p place
	n int
}

func TestMatrix(t *testing.T) {
	build(t, "../..")
	begun := time.Now()
	rounds, systems := number(t, "NOFX_KILLMATRIX_ROUNDS", 10), number(t, "NOFX_KILLMATRIX_SYSTEMS", 4)
	var todo []shift
	for n := range rounds {
		for _, p := range places() {
			todo = append(todo, shift{p, n})
		}
	}
	if !all() {
		rounds, systems, todo = 1, 2, short()
	}
	m := newMatrix(rounds)
	shifts := make(chan shift, len(todo))
	for _, s := range todo {
		shifts <- s
	}
	close(shifts)
	t.Run("systems", func(t *testing.T) {
		for i := range systems {
			t.Run(fmt.Sprint(i+1), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, binaries(t))
				for s := range shifts {
					for _, v := range victims() {
						if all() && chosen(s, v) || !all() && due(s, v) {
							o := l.round(s.p, v, s.n)
							m.add(s.p, v, o)
							o.log(t, s, v)
						}
					}
				}
			})
		}
	})
	table := m.table(time.Since(begun), systems)
	t.Logf("%s", table)
	m.judge(t)
	if all() && only() == "" {
		if err := os.WriteFile("../../docs/kill-matrix.md", []byte(table), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// only is a part of the titles of the cells that are wanted, PLACE, VICTIM.
func only() string { return os.Getenv("NOFX_KILLMATRIX_ONLY") }

func chosen(s shift, v victim) bool { return strings.Contains(s.p.title+", "+v.title, only()) }

// short is what CI has time for: a few places, one victim each or two.
func short() []shift {
	var some []shift
	for i, p := range places() {
		if i%2 == 0 {
			some = append(some, shift{p, i})
		}
	}
	return some
}

// due picks the victim of a place in the short form.
func due(s shift, v victim) bool {
	list := victims()
	return list[(s.n/2)%len(list)].title == v.title
}

func (o outcome) log(t *testing.T, s shift, v victim) {
	t.Helper()
	if o.missed != "" {
		t.Logf("%s, %s, round %d: not hit: %s", s.p.title, v.title, s.n, o.missed)
		return
	}
	t.Logf("%s, %s, round %d: ended after %.2fs, clean after %.2fs, attempts %v", s.p.title, v.title, s.n, o.recovery.Seconds(), o.clean.Seconds(), o.attempts)
	if o.late() {
		t.Logf("   something of it was on the host for more than %v", cleanBound)
	}
	for _, w := range append(o.wrong, o.again...) {
		t.Log("  ", w)
	}
	for _, b := range o.broken {
		t.Log("  ", b)
	}
}

// Nobody can hold the binaries that are shipped. Those for the tests, which are
// the control, have the variable's name in them.
func TestShippedBinaries(t *testing.T) {
	t.Parallel()
	build(t, "../..")
	for _, name := range []string{"nofx", "nofxd", "nofx-api"} {
		for dir, want := range map[string]bool{"../../bin": false, binaries(t): true} {
			body, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatalf("%v: run make build first", err)
			}
			if got := bytes.Contains(body, []byte(failpoint.Env)); got != want {
				t.Errorf("%s/%s has %s in it: %v, want %v", dir, name, failpoint.Env, got, want)
			}
		}
	}
}

// matrix collects the outcomes of all rounds.
type matrix struct {
	rounds int
	mu     sync.Mutex
	cells  map[string]map[string][]outcome // by place and victim
}

func newMatrix(rounds int) *matrix {
	return &matrix{rounds: rounds, cells: map[string]map[string][]outcome{}}
}

func (m *matrix) add(p place, v victim, o outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cells[p.title] == nil {
		m.cells[p.title] = map[string][]outcome{}
	}
	m.cells[p.title][v.title] = append(m.cells[p.title][v.title], o)
}
