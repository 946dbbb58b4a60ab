package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
)

func open(t *testing.T) (*Dir, string) {
	t.Helper()
	path := t.TempDir()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, path
}

func put(t *testing.T, d *Dir, tenant, body string) (sum string) {
	t.Helper()
	h := sha256.Sum256([]byte(body))
	sum = hex.EncodeToString(h[:])
	if err := d.Put(t.Context(), tenant, sum, int64(len(body)), 1<<20, strings.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	return sum
}

// refs are references that are fixed; asked is called before they are given.
type refs struct {
	artifacts, attempts []string // tenant/name
	asked               func(tenant string, names []string)
}

func (r refs) answer(tenant string, names, known []string) ([]string, error) {
	if r.asked != nil {
		r.asked(tenant, names)
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(known, tenant+"/"+n) }), nil
}

func (r refs) Artifacts(_ context.Context, tenant string, sums []string) ([]string, error) {
	return r.answer(tenant, sums, r.artifacts)
}

func (r refs) Attempts(_ context.Context, tenant string, ids []string) ([]string, error) {
	return r.answer(tenant, ids, r.attempts)
}

// all collects every share.
func all(t *testing.T, d *Dir, before time.Time, r References) (sum Collected) {
	t.Helper()
	for share := range Shares {
		c, err := d.Collect(t.Context(), share, before, r)
		if err != nil {
			t.Fatal(err)
		}
		sum.Artifacts, sum.Segments, sum.Uploads, sum.Bytes = sum.Artifacts+c.Artifacts, sum.Segments+c.Segments, sum.Uploads+c.Uploads, sum.Bytes+c.Bytes
	}
	return sum
}

// grow makes files two days older.
func grow(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		old := time.Now().Add(-48 * time.Hour)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
}

func files(t *testing.T, root string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, filepath.Base(filepath.Dir(filepath.Dir(path)))+"/"+filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// What is old and nobody's goes; what somebody refers to stays, and so does
// what is young, what another tenant has, and what is not ours.
func TestCollect(t *testing.T) {
	t.Parallel()
	d, root := open(t)
	gone, kept, young, shared := put(t, d, "acme", "nobody's"), put(t, d, "acme", "an artifact's"), put(t, d, "acme", "just put"), put(t, d, "beta", "nobody's")
	for _, attempt := range []string{"att_gone", "att_kept", "att_young"} {
		if err := d.Append("acme", attempt, 0, []byte("output")); err != nil {
			t.Fatal(err)
		}
	}
	at := func(parts ...string) string { return filepath.Join(append([]string{root}, parts...)...) }
	strange, broken := at("artifacts", "acme", gone[:2], "README"), at("incoming", "0123-4")
	for _, path := range []string{strange, broken} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	grow(t, strange, broken, at("artifacts", "acme", gone[:2], gone), at("artifacts", "acme", kept[:2], kept), at("artifacts", "beta", shared[:2], shared),
		at("output", "acme", "ne", "att_gone"), at("output", "acme", "pt", "att_kept"))
	c := all(t, d, time.Now().Add(-25*time.Hour), refs{artifacts: []string{"acme/" + kept, "beta/" + shared}, attempts: []string{"acme/att_kept"}})
	if diff := cmp.Diff(Collected{Artifacts: 1, Segments: 1, Uploads: 1, Bytes: int64(len("nobody's") + len("output") + 1)}, c); diff != "" {
		t.Error(diff)
	}
	want := []string{"acme/" + kept, "acme/" + young, "beta/" + shared, "acme/README", "acme/att_kept", "acme/att_young"}
	slices.Sort(want)
	if diff := cmp.Diff(want, files(t, root)); diff != "" {
		t.Error(diff)
	}
}

// Bytes that are put after the collector has learnt that the old ones are
// nobody's are not taken for those.
func TestPutWhileCollecting(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"put again": true, "positive control": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, root := open(t)
			sum := put(t, d, "acme", "bytes")
			grow(t, filepath.Join(root, "artifacts", "acme", sum[:2], sum))
			asked := 0
			all(t, d, time.Now().Add(-25*time.Hour), refs{asked: func(string, []string) {
				if asked++; again {
					put(t, d, "acme", "bytes")
				}
			}})
			_, err := d.Has("acme", sum)
			if stays := err == nil; asked != 1 || stays != again || err != nil && !step.Is(err, step.KindNotFound) {
				t.Errorf("asked %d times, then %v", asked, err)
			}
		})
	}
}

// Whatever the collector does at the moment, what was put is there.
func TestPutAgainstCollector(t *testing.T) {
	t.Parallel()
	d, root := open(t)
	body := "the same bytes"
	sum := put(t, d, "acme", body)
	path := filepath.Join(root, "artifacts", "acme", sum[:2], sum)
	removed := 0
	for range 300 {
		grow(t, path)
		var both sync.WaitGroup
		both.Go(func() {
			c, err := d.Collect(t.Context(), share(sum), time.Now().Add(-25*time.Hour), refs{})
			if err != nil {
				t.Error(err)
			}
			removed += c.Artifacts
		})
		both.Go(func() {
			if err := d.Put(t.Context(), "acme", sum, int64(len(body)), 1<<20, strings.NewReader(body)); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		if _, err := d.Has("acme", sum); err != nil {
			t.Fatalf("what was put is not there: %v", err)
		}
	}
	t.Logf("the old bytes were removed %d times of 300", removed)
}

func share(sum string) int {
	raw, err := hex.DecodeString(sum[:2])
	if err != nil {
		panic(err)
	}
	return int(raw[0])
}

// A folder is one installation's.
func TestBelongs(t *testing.T) {
	t.Parallel()
	d, _ := open(t)
	for range 2 {
		if err := d.Belongs("inst_a"); err != nil {
			t.Error(err)
		}
	}
	if err := d.Belongs("inst_b"); !step.Is(err, step.KindConflict) {
		t.Errorf("another's folder: %v", err)
	}
}
