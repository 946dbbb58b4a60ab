package killmatrix

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// bug is a patch that puts a bug into the tree, and where it shows. Its file
// begins with what it is, and lines of Place, Victim, Frozen when the victim is to
// be stopped before it is killed, Slow with how long the next one is to take to
// start, and Breaks: what must be
// found: invariants, "again" for a step that is run again without need, "late"
// for what stays on the host for too long, "run" for what came of the run.
type bug struct {
	file   string // absolute
	p      place
	v      victim
	breaks []string
}

func bugs(t *testing.T) []bug {
	t.Helper()
	files, err := filepath.Glob("testdata/bugs/*.patch")
	if err != nil || len(files) == 0 {
		t.Fatalf("no patches: %v", err)
	}
	var all []bug
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b := bug{}
		if b.file, err = filepath.Abs(file); err != nil {
			t.Fatal(err)
		}
		for text := range strings.Lines(string(body)) {
			name, value, _ := strings.Cut(strings.TrimSpace(text), ": ")
			switch name {
			case "Place":
				if i := slices.IndexFunc(places(), func(p place) bool { return p.title == value }); i >= 0 {
					b.p = places()[i]
				}
			case "Victim":
				if i := slices.IndexFunc(victims(), func(v victim) bool { return v.title == value }); i >= 0 {
					b.v = victims()[i]
				}
			case "Frozen":
				b.p.froze = value == "yes"
			case "Slow":
				if b.p.slow, err = time.ParseDuration(value); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
			case "Breaks":
				b.breaks = strings.Fields(value)
			}
		}
		if b.p.title == "" || b.v.title == "" || len(b.breaks) == 0 {
			t.Fatalf("%s does not say at which place and victim it shows, and how", file)
		}
		all = append(all, b)
	}
	return all
}

// Each bug turns its cell red, which is green without it. The short form sees
// that the patches still apply.
func TestBugs(t *testing.T) {
	full := os.Getenv("NOFX_KILLMATRIX") == "bugs"
	if full {
		build(t, "../..")
		t.Run("without", func(t *testing.T) {
			l := newLab(t, binaries(t))
			for _, b := range bugs(t) {
				if got := l.found(b, 1); len(got) > 0 {
					t.Errorf("%s, %s: %v", b.p.title, b.v.title, got)
				}
			}
		})
	}
	for _, b := range bugs(t) {
		t.Run(strings.TrimSuffix(filepath.Base(b.file), ".patch"), func(t *testing.T) {
			if !full {
				if out, err := git(t, "../..", "apply", "--check", b.file); err != nil {
					t.Errorf("%v: %s", err, out)
				}
				return
			}
			tree := t.TempDir()
			copyTree(t, tree)
			if out, err := git(t, tree, "apply", b.file); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			build(t, tree)
			got := newLab(t, filepath.Join(tree, "bin", "failpoints")).found(b, 8)
			for _, want := range b.breaks {
				if !slices.Contains(got, want) {
					t.Errorf("%s was not found, but %v", want, got)
				}
			}
			t.Logf("found: %v", got)
		})
	}
}

// found plays the bug's cell, with each step so many times, and tells what broke.
// It is over when all has been found: which of two comes first is not always the
// same.
func (l *lab) found(b bug, times int) (found []string) {
	l.t.Helper()
	for n := range 2 * times {
		if b.p.froze {
			n |= 1 // the last step: whoever dies has no other's call in hand
		}
		o := l.round(b.p, b.v, n)
		o.log(l.t, shift{b.p, n}, b.v)
		switch {
		case o.missed != "":
			l.t.Fatalf("not hit: %s", o.missed)
		case len(o.wrong) > 0:
			found = append(found, "run")
		case len(o.again) > 0:
			found = append(found, "again")
		}
		if o.late() {
			found = append(found, "late")
		}
		for _, v := range o.broken {
			found = append(found, v.Invariant)
		}
		if !slices.ContainsFunc(b.breaks, func(want string) bool { return !slices.Contains(found, want) }) {
			break
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func git(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// copyTree copies what is needed to build.
func copyTree(t *testing.T, to string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", `set -o pipefail; tar --exclude=./bin --exclude=./.git --exclude='./.nofx*' -cf - . | tar -xf - -C "$0"`, to)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
