package uids

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

const base = 1_879_900_000

func TestSlotsAreNotReusedBeforeASweep(t *testing.T) {
	t.Parallel()
	r, err := New(base, 8)
	if err != nil {
		t.Fatal(err)
	}
	r.Reserve(base + 2)
	seen := map[uint32]bool{base + 2: true}
	for range 3 {
		uid, err := r.Take()
		if err != nil || seen[uid] || (uid-base)%2 != 0 {
			t.Fatalf("uid %d, %v; seen %v", uid, err, seen)
		}
		seen[uid] = true
	}
	if _, err := r.Take(); !step.Is(err, step.KindUnavailable) {
		t.Errorf("from a full range: %v", err)
	}
	r.Free(base + 4)
	if _, err := r.Take(); !step.Is(err, step.KindUnavailable) {
		t.Errorf("before the sweep: %v", err)
	}
	if held, err := r.Sweep(); held != 0 || err != nil {
		t.Errorf("held %d, %v", held, err)
	}
	if uid, err := r.Take(); uid != base+4 || err != nil {
		t.Errorf("after the sweep: %d, %v", uid, err)
	}
}

func TestAProcessHoldsItsSlot(t *testing.T) {
	t.Parallel()
	r, err := New(base+100, 4)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := r.Take()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid + 1, Gid: uid + 1}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Free(uid)
	if held, err := r.Sweep(); held != 1 || err != nil {
		t.Errorf("with a process: held %d, %v", held, err)
	}
	fresh, err := New(base+100, 4)
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.Occupied(); err != nil {
		t.Fatal(err)
	}
	if other, err := fresh.Take(); err != nil || other == uid {
		t.Errorf("a new range hands out %d, %v", other, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if held, err := r.Sweep(); held != 0 || err != nil {
		t.Errorf("without it: held %d, %v", held, err)
	}
}

func TestBadRanges(t *testing.T) {
	t.Parallel()
	for _, bad := range [][2]uint32{{0, 100}, {1000, 100}, {base, 2}, {4294967000, 100000}} {
		if _, err := New(bad[0], bad[1]); !step.Is(err, step.KindInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
