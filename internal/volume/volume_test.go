package volume_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/volume"
	"github.com/nofx-run/nofx/sdk/step"
)

// fresh gives the places of a volume that goes with the test.
func fresh(t *testing.T) (image, dir string) {
	t.Helper()
	base := t.TempDir()
	image, dir = filepath.Join(base, "image"), filepath.Join(base, "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := volume.Unmount(image, dir); err != nil {
			t.Error(err)
		}
	})
	return image, dir
}

func mount(t *testing.T, image, dir string, mb int64) {
	t.Helper()
	if err := volume.Mount(t.Context(), image, dir, mb, 1234); err != nil {
		t.Fatal(err)
	}
}

func TestFull(t *testing.T) {
	t.Parallel()
	image, dir := fresh(t)
	mount(t, image, dir, 16)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("a new one holds %v, %v", entries, err)
	}
	st, err := os.Stat(dir)
	if err != nil || st.Sys() == nil {
		t.Fatal(err)
	}
	use, err := volume.Look(dir)
	if err != nil || use.Full || use.Size > 16<<20 || use.Size < 12<<20 {
		t.Errorf("%+v, %v", use, err)
	}
	err = os.WriteFile(filepath.Join(dir, "big"), make([]byte, 32<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("more than it holds: %v", err)
	}
	if use, err := volume.Look(dir); err != nil || !use.Full || use.Used < 12<<20 {
		t.Errorf("full: %+v, %v", use, err)
	}
	if err := os.Remove(filepath.Join(dir, "big")); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			if !errors.Is(err, unix.ENOSPC) || i < 100 {
				t.Errorf("file %d: %v", i, err)
			}
			break
		}
		if i > 1<<20 {
			t.Fatal("inodes without end")
		}
	}
	if use, err := volume.Look(dir); err != nil || !use.Full {
		t.Errorf("no inode left: %+v, %v", use, err)
	}
}

func TestAgain(t *testing.T) {
	t.Parallel()
	image, dir := fresh(t)
	mount(t, image, dir, 8)
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	mount(t, image, dir, 8) // it is there
	if n := strings.Count(mounts(t), dir+" "); n != 1 {
		t.Errorf("%d mounts", n)
	}
	// As after a fall of the host: the file is there, the mount is not.
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	mount(t, image, dir, 8)
	if data, err := os.ReadFile(filepath.Join(dir, "a")); string(data) != "kept" {
		t.Errorf("%q, %v", data, err)
	}
}

// A process that died between the mount and what follows leaves what the next
// one brings to its end.
func TestCutOff(t *testing.T) {
	t.Parallel()
	image, dir := fresh(t)
	mount(t, image, dir, 8)
	if err := os.Chown(dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	mount(t, image, dir, 8)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Uid != 1234 || st.Gid != 1234 {
		t.Errorf("it belongs to %d, %d, %v", st.Uid, st.Gid, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("it holds %v, %v", left, err)
	}
}

// One that is in use goes all the same, and so does its loop device.
func TestUnmountInUse(t *testing.T) {
	t.Parallel()
	image, dir := fresh(t)
	mount(t, image, dir, 8)
	f, err := os.Create(filepath.Join(dir, "open"))
	if err != nil {
		t.Fatal(err)
	}
	if err := volume.Unmount(image, dir); err != nil {
		t.Fatal(err)
	}
	if mounted, err := volume.Mounted(dir); err != nil || mounted {
		t.Errorf("%t, %v", mounted, err)
	}
	if _, err := os.Stat(image); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := volume.Unmount(image, dir); err != nil {
		t.Errorf("once more: %v", err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	image, dir := fresh(t)
	for _, mb := range []int64{0, -1, 7, volume.MaxMB + 1} {
		if err := volume.Mount(t.Context(), image, dir, mb, 1); !step.Is(err, step.KindInvalid) {
			t.Errorf("%d: %v", mb, err)
		}
	}
	if err := os.WriteFile(image, []byte("no file system"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := volume.Mount(t.Context(), image, dir, 8, 1); err == nil {
		t.Error("a file that holds none was mounted")
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestBelow(t *testing.T) {
	t.Parallel()
	image, dir := fresh(t)
	mount(t, image, dir, 8)
	all, err := volume.Below(dir, "/proc")
	if err != nil {
		t.Fatal(err)
	}
	own, err := volume.DeviceOf(dir)
	if err != nil || !strings.HasPrefix(own.Path, "/dev/loop") || all[0] != own {
		t.Errorf("%v, %v, %v", own, all, err)
	}
	for i, d := range all {
		if i > 0 && (strings.HasPrefix(d.Path, "/dev/loop") || d == own) {
			t.Errorf("%v", all)
		}
	}
	if _, err := volume.DeviceOf("/proc"); !step.Is(err, step.KindUnsupported) {
		t.Errorf("/proc: %v", err)
	}
}
