package driversanity

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/brokendriver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/suite"
)

const brokenPrefix = "nofx-driver-broken-"

// The test binary is the broken driver as well.
func TestMain(m *testing.M) {
	defect, ok := strings.CutPrefix(filepath.Base(os.Args[0]), brokenPrefix)
	if !ok {
		os.Exit(m.Run())
	}
	cookie := driverrpc.Handshake()
	if defect == "runs-by-hand" && os.Getenv(cookie.MagicCookieKey) == "" {
		return
	}
	driverrpc.Serve(brokendriver.NewRemote(defect))
	if defect == "does-not-end" {
		select {}
	}
}

// broken is a plugin with a defect, over a world of its own that ends with the
// test.
func broken(t *testing.T, defect string) Options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "broken") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, brokenPrefix+defect)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- brokendriver.ServeWorld(ctx, dir) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the world: %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	config, err := json.Marshal(map[string]string{"world": dir})
	if err != nil {
		t.Fatal(err)
	}
	return Options{Path: path, Config: config, Programs: suite.InMemory(), Network: InMemoryNetwork, Timeout: time.Minute, Parallel: 4}
}

// Each case can fail: a plugin with the defect that it is there for turns it
// red, seen from outside. Patience is short, for speed; a machine too busy to
// show a defect in that time is given more.
func TestFindsDefects(t *testing.T) {
	t.Parallel()
	all := brokendriver.Defects()
	defects := slices.Sorted(maps.Keys(all))
	if testing.Short() { // one of each kind; the cases themselves are tested next to them
		defects = []string{"dies-in-create", "half-made", "does-not-end", "leaks-descriptors", "leaves-processes", "runs-by-hand", "panics"}
	}
	for _, defect := range defects {
		t.Run(defect, func(t *testing.T) {
			t.Parallel()
			o := broken(t, defect)
			// Something must run before its process can be left.
			o.Only = regexp.MustCompile("^(" + strings.Join(all[defect], "|") + map[string]string{"leaves-processes": "|NoOutput"}[defect] + ")$")
			for _, patience := range []float64{0.2, 1, 5} {
				o.Patience = patience
				r, err := Run(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if r.Failed >= len(all[defect]) && r.Grade == "" {
					return
				}
				t.Logf("patience %g: %d cases failed, grade %q", patience, r.Failed, r.Grade)
				for _, c := range r.Cases {
					if c.Status != "failed" && slices.Contains(all[defect], c.Name) {
						t.Logf("%s %s: %q", c.Name, c.Status, c.Seen)
					}
				}
			}
			t.Error("not found")
		})
	}
}

// No case is left out above.
func TestEachCaseHasADefect(t *testing.T) {
	t.Parallel()
	covered := map[string]bool{
		"HostSpec":              true, // about the suite's own factory
		"RefusesUnknownMethods": true, // a server in Go cannot fail it
	}
	for _, cases := range brokendriver.Defects() {
		for _, c := range cases {
			covered[c] = true
		}
	}
	names := []string{}
	for _, c := range suite.Cases() {
		names = append(names, c.Name)
	}
	for _, c := range new(sanity).processCases() {
		names = append(names, c.name)
	}
	for _, name := range names {
		if !covered[name] {
			t.Errorf("no defect shows that %s can fail", name)
		}
		delete(covered, name)
	}
	if len(covered) > 0 {
		t.Errorf("defects name cases that are not there: %v", covered)
	}
}

// Without a defect the same plugin is as good as a driver can be.
func TestFindsNoDefectWhereThereIsNone(t *testing.T) { // not beside the others: it may not be slow
	o := broken(t, "none")
	o.Patience, o.Timeout = 6, 5*time.Minute
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Cases {
		if c.Status == "failed" {
			t.Errorf("%s: %q", c.Name, c.Seen)
		}
	}
	if r.Grade != "A" || len(r.Unjudged) > 0 {
		t.Errorf("grade %s: %s; not judged: %+v", r.Grade, r.Reason, r.Unjudged)
	}
}
