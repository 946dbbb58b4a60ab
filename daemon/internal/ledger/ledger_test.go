package ledger

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func entry(id string) Entry {
	return Entry{
		Lease:  wire.Lease{Fence: wire.Fence{AttemptID: id, Attempt: 1, Epoch: 7}, Driver: "local"},
		Handle: &driver.Handle{Driver: "local", ID: id, Version: 1, Data: []byte("x")},
	}
}

func TestSurvivesReopening(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		l.Claimed("c-2", entry("a"), entry("b")), l.Delete("a", "missing"),
		l.PutRun(Run{ID: "r1", UID: 5}), l.PutRun(Run{ID: "r2", UID: 6}), l.DeleteRun("r1"), l.Set("installation", "i-1"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(path); !step.Is(err, step.KindConflict) {
		t.Errorf("a second daemon: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	entries, err := l.Entries()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Entry{entry("b")}, entries); diff != "" {
		t.Error(diff)
	}
	runs, err := l.Runs()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Run{{ID: "r2", UID: 6}}, runs); diff != "" {
		t.Error(diff)
	}
	if v, err := l.Claim(); err != nil || v != "c-2" {
		t.Errorf("claim %q, %v", v, err)
	}
	if v, err := l.Get("installation"); err != nil || v != "i-1" {
		t.Errorf("installation %q, %v", v, err)
	}
}

func TestManyWriters(t *testing.T) {
	t.Parallel()
	l, err := Open(filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if err := l.Put(entry(fmt.Sprint("a", i))); err != nil {
				t.Error(err)
			}
			// An empty key is refused by the database: it must fail alone.
			if err := l.Put(entry("")); err == nil {
				t.Error("an entry without an id was taken")
			}
		})
	}
	wg.Wait()
	if entries, err := l.Entries(); err != nil || len(entries) != 200 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

func BenchmarkPut(b *testing.B) {
	l, err := Open(filepath.Join(b.TempDir(), "ledger.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for b.Loop() {
		if err := l.Put(entry("a")); err != nil {
			b.Fatal(err)
		}
	}
}
