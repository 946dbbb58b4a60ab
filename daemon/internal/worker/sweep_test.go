package worker

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/daemon/internal/diskwatch"
	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/daemon/internal/metrics"
	"github.com/nofx-run/nofx/daemon/internal/uids"
	"github.com/nofx-run/nofx/daemon/internal/workspace"
)

// still is a worker that does not run, and so sweeps only when it is told to.
func still(t *testing.T) (*Worker, string) {
	t.Helper()
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	tree, err := cgroup.Open(fmt.Sprintf("nofxtest_%08x.slice", rand.Uint32()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.RemoveAll(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	l, err := ledger.Open(filepath.Join(dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	ids, err := uids.New(1_880_000_000, 1000)
	if err != nil {
		t.Fatal(err)
	}
	work, err := workspace.Open(filepath.Join(dir, "work"))
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "journal"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{
		Ledger: l, Cgroups: tree, UIDs: ids, Workspaces: work, JournalDir: filepath.Join(dir, "journal"), Drivers: host{newPlugins(t)},
		Observer: metrics.New(), Log: log, Name: "host-1", Version: "test", Slots: 1, Disk: diskwatch.New(diskwatch.Host(dir), log),
	}), filepath.Join(dir, "work")
}

// A dry run leaves everything where it is, and so what an earlier removal has left.
func TestDrySweepChangesNothing(t *testing.T) {
	t.Parallel()
	w, work := still(t)
	for _, name := range []string{".gone-run-0", "run-1"} {
		if err := os.MkdirAll(filepath.Join(work, name, "kept"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		dry  bool
		left []string
	}{{true, []string{".gone-run-0", "run-1"}}, {false, nil}} {
		report := w.Sweep(t.Context(), c.dry)
		if len(report.Errors) > 0 || len(report.Items) != 1 || report.Items[0].Name != "run-1" || report.Items[0].Removed == c.dry {
			t.Errorf("dry %t: %+v", c.dry, report)
		}
		entries, err := os.ReadDir(work)
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, e := range entries {
			left = append(left, e.Name())
		}
		if !slices.Equal(left, c.left) {
			t.Errorf("dry %t leaves %v, want %v", c.dry, left, c.left)
		}
	}
}
