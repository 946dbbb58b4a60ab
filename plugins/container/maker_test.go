package container

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// A container is removed from the engine that made it, whatever engine the
// configuration names by then; while that one is away, the error says where it is.
func TestRemovedFromWhoMadeIt(t *testing.T) {
	t.Parallel()
	old, err := testdocker.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := old.Stop(); err != nil {
			t.Error(err)
		}
	})
	state := filepath.Join(t.TempDir(), "state")
	at := func(host string) func(*Config) { return func(c *Config) { c.Host, c.StateDir = host, state } }
	d := configured(t, at(old.Host()))
	var made [2]driver.Handle
	for i := range made {
		if made[i], err = d.Create(t.Context(), newSpec(t)); err != nil {
			t.Fatal(err)
		}
	}
	containers := func() int {
		t.Helper()
		all, err := old.Containers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if n := containers(); n != 2 {
		t.Fatalf("the old engine has %d", n)
	}
	if err := d.Configure(t.Context(), config(t, at(docker.Host()))); err != nil {
		t.Fatal(err)
	}
	// What runs in it goes on: its supervisor is the engine's no more than ours.
	if r := run(t, d, made[0], "echo still here"); r.out != "still here\n" {
		t.Errorf("%+v", r)
	}
	if err := d.Destroy(t.Context(), made[0]); err != nil {
		t.Fatal(err)
	}
	if n := containers(); n != 1 {
		t.Errorf("the old engine has %d, want the other one alone", n)
	}
	// The socket of an engine that is away.
	socket := strings.TrimPrefix(old.Host(), "unix://")
	if err := os.Rename(socket, socket+".away"); err != nil {
		t.Fatal(err)
	}
	err = d.Destroy(t.Context(), made[1])
	if !step.Is(err, step.KindUnavailable) || !strings.Contains(err.Error(), "docker -H "+old.Host()+" rm -f "+name(made[1].ID)) {
		t.Errorf("%v", err)
	}
	if err := os.Rename(socket+".away", socket); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), made[1]); err != nil {
		t.Error(err)
	}
	if n := containers(); n != 0 {
		t.Errorf("the old engine still has %d", n)
	}
}

// An engine has one name at all of its addresses: one that was moved is asked
// where it is now.
func TestEngineThatMoved(t *testing.T) {
	t.Parallel()
	e, err := testdocker.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	state, link := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "docker.sock")
	if err := os.Symlink(strings.TrimPrefix(e.Host(), "unix://"), link); err != nil {
		t.Fatal(err)
	}
	at := func(host string) func(*Config) { return func(c *Config) { c.Host, c.StateDir = host, state } }
	d := configured(t, at("unix://"+link))
	h, err := d.Create(t.Context(), newSpec(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := e.Restart(t.Context(), syscall.SIGTERM); err != nil { // it keeps its name
		t.Fatal(err)
	}
	if err := d.Configure(t.Context(), config(t, at(e.Host()))); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Error(err)
	}
	if all, err := e.Containers(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// A container that has lost its folder is found at the engine that made it, which the
// configuration does not name any more; an engine that has none is forgotten.
func TestOrphansOfAnotherEngine(t *testing.T) {
	t.Parallel()
	old, err := testdocker.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := old.Stop(); err != nil {
			t.Error(err)
		}
	})
	state := filepath.Join(t.TempDir(), "state")
	at := func(host string) func(*Config) { return func(c *Config) { c.Host, c.StateDir = host, state } }
	d := configured(t, at(old.Host()))
	spec := newSpec(t)
	h, err := d.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // its group cannot go before it
		_ = old.Do(context.Background(), http.MethodDelete, "/containers/"+name(spec.ID)+"?force=1", nil, nil) // it is to be gone
	})
	dir, err := d.Folder(h)
	if err != nil {
		t.Fatal(err)
	}
	hidden := filepath.Join(t.TempDir(), "gone")
	if err := os.Rename(dir, hidden); err != nil {
		t.Fatal(err)
	}
	if err := d.Configure(t.Context(), config(t, at(docker.Host()))); err != nil {
		t.Fatal(err)
	}
	set, err := d.configured()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		before time.Time
		left   int
	}{
		{time.Now().Add(-time.Hour), 1}, // what is not old enough may be on its way
		{time.Now().Add(time.Hour), 0},
	} {
		if err := d.sweep(t.Context(), set, c.before); err != nil {
			t.Fatal(err)
		}
		if all, err := old.Containers(t.Context()); err != nil || len(all) != c.left {
			t.Fatalf("the old engine has %d, want %d, %v", len(all), c.left, err)
		}
		if known, err := readEngines(state); err != nil || len(known) != c.left {
			t.Errorf("engines: %+v, %v", known, err)
		}
	}
	if err := os.Rename(hidden, dir); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Error(err)
	}
}

// One that is away costs a sweep nothing but the try.
func TestEngineThatIsGone(t *testing.T) {
	t.Parallel()
	d := configured(t)
	set, err := d.configured()
	if err != nil {
		t.Fatal(err)
	}
	gone := maker{Host: "unix://" + filepath.Join(t.TempDir(), "docker.sock"), ID: "it"}
	if err := d.engines.note(set.config.StateDir, gone); err != nil {
		t.Fatal(err)
	}
	if err := d.sweep(t.Context(), set, time.Now()); err != nil {
		t.Error(err)
	}
	if known, err := readEngines(set.config.StateDir); err != nil || len(known) != 1 || known[0] != gone {
		t.Errorf("engines: %+v, %v", known, err)
	}
}
