package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// disk is a small file system of its own.
func disk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the room that is left.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4<<10))
	}
	if !Full(err) {
		t.Fatal(err)
	}
}

func verdictOf(stdout int) wire.Record {
	code := 3
	return wire.Record{Type: wire.RecordVerdict, Verdict: &wire.VerdictRecord{Stdout: []byte(strings.Repeat("x", stdout)),
		Verdict: step.Verdict{Cause: step.CauseExit, ExitCode: &code, Attested: step.AttestedKernel}}}
}

// On a full disk a verdict is written all the same, is there after a restart of
// the daemon, and its place is taken anew when the journal is gone.
func TestVerdictOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := disk(t)
	r, err := NewReserve(filepath.Join(dir, "reserve"), 2)
	if err != nil || len(r.free) != 2 {
		t.Fatalf("%d places, %v", len(r.free), err)
	}
	journals := make([]*Journal, 4)
	for i := range journals {
		if journals[i], err = Open(filepath.Join(dir, fmt.Sprint(i)), r); err != nil {
			t.Fatal(err)
		}
	}
	some := strings.Repeat("o", 3000)
	mustAppend(t, journals[0], output(0, some))
	fill(t, dir)
	if _, err := journals[0].Append(output(3000, strings.Repeat(some, 20))); !Full(err) {
		t.Fatalf("output on a full disk: %v", err)
	}
	for i, j := range journals {
		n, err := j.Append(verdictOf(wire.MaxVerdictStream))
		switch {
		case i < 2 && err != nil:
			t.Errorf("verdict %d: %v", i, err)
		case i < 2 && n != int64(2-i):
			t.Errorf("verdict %d is record %d", i, n)
		case i >= 2 && err == nil:
			t.Errorf("verdict %d was written: the disk was not full", i)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
	for i := range 2 {
		j, err := Open(filepath.Join(dir, fmt.Sprint(i)), r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := j.Read(0, 1<<20)
		if err != nil || len(got) != 2-i || got[len(got)-1].Verdict == nil || *got[len(got)-1].Verdict.Verdict.ExitCode != 3 {
			t.Errorf("journal %d: %d records, %v", i, len(got), err)
		}
		if err := j.Remove(); err != nil {
			t.Error(err)
		}
	}
	if len(r.free) != 2 {
		t.Errorf("%d places after the journals have gone", len(r.free))
	}
	again, err := NewReserve(filepath.Join(dir, "reserve"), 2) // of the next process, with the disk as full as before
	if err != nil || len(again.free) != 2 {
		t.Errorf("%d places, %v", len(again.free), err)
	}
}
