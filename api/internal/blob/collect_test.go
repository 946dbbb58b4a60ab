package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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

// A put and a collector wait for each other where the bytes get their name.
func TestPutAndCollectorWaitForEachOther(t *testing.T) {
	t.Parallel()
	const body = "the same bytes"
	for name, c := range map[string]struct {
		held, waits int
		do          func(d *Dir, sum string) error
	}{
		"collector": {syscall.LOCK_SH, syscall.LOCK_EX, func(d *Dir, sum string) error {
			_, err := d.Collect(t.Context(), number(sum), time.Now().Add(-25*time.Hour), refs{})
			return err
		}},
		"put": {syscall.LOCK_EX, syscall.LOCK_SH, func(d *Dir, sum string) error {
			return d.Put(t.Context(), "acme", sum, int64(len(body)), 1<<20, strings.NewReader(body))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, root := open(t)
			sum := put(t, d, "acme", body)
			dir := filepath.Join("artifacts", "acme", sum[:2])
			path := filepath.Join(root, dir, sum)
			grow(t, path)
			done := make(chan error, 1)
			err := d.locked(dir, c.held, func(f *os.File) error {
				go func() { done <- c.do(d, sum) }()
				untilWaiting(t, f, c.waits)
				info, err := os.Stat(path)
				if err != nil || info.ModTime().After(time.Now().Add(-time.Hour)) {
					t.Errorf("it did not wait: %v %v", info, err)
				}
				now := time.Now()
				return os.Chtimes(path, now, now) // as a put that has the lock would
			})
			if err := errors.Join(err, <-done); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Has("acme", sum); err != nil {
				t.Errorf("what was put is not there: %v", err)
			}
		})
	}
}

// untilWaiting waits until somebody waits for a lock on the folder.
func untilWaiting(t *testing.T, f *os.File, how int) {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", info.Sys().(*syscall.Stat_t).Ino)
	kind := map[int]string{syscall.LOCK_SH: " READ ", syscall.LOCK_EX: " WRITE "}[how]
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		raw, err := os.ReadFile("/proc/locks")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			if strings.Contains(line, "->") && strings.Contains(line, kind) && strings.Contains(line, inode) {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("nobody waits for the lock:\n%s", raw)
		}
	}
}

func number(sum string) int {
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
