// Package volume makes file systems of a fixed size: each is a file with ext4
// in it, mounted through a loop device that goes with the mount. What is full
// is the volume, never the disk below, and it has its own inodes to run out of.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// Bounds of a volume's size, in MiB.
const (
	MinMB = 8
	MaxMB = 16 << 20
)

const (
	toolTime = time.Minute
	// reserve is how much a file system may still take when it counts as full:
	// less than a block and what describes it.
	reserve = 64 << 10
)

// Mount shows the volume whose file is image at dir, a folder that exists, and
// makes it first, of mb MiB and for uid, unless it is there. A file system that
// was in use when the host went down is checked before. One that dir shows
// already is left.
func Mount(ctx context.Context, image, dir string, mb int64, uid uint32) error {
	if mb < MinMB || mb > MaxMB {
		return step.Errorf(step.KindInvalid, "a volume of %d MiB: %d to %d can be had", mb, MinMB, MaxMB)
	}
	mounted, err := Mounted(dir)
	if err != nil {
		return err
	}
	if !mounted {
		if err := show(ctx, image, dir, mb); err != nil {
			return err
		}
	}
	// Also when it is there: a process may have died before it came to this.
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil || st.Uid == uid {
		return err
	}
	// What mkfs leaves there is not the step's.
	_ = os.Remove(filepath.Join(dir, "lost+found"))
	return os.Lchown(dir, int(uid), int(uid))
}

// show mounts the volume, which is made or checked first.
func show(ctx context.Context, image, dir string, mb int64) error {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	if _, err := os.Lstat(image); errors.Is(err, fs.ErrNotExist) {
		if err := format(ctx, image, mb); err != nil {
			return err
		}
	} else if err := check(ctx, image); err != nil {
		return err
	}
	if err := mount(image, dir); err != nil {
		return step.Errorf(step.KindUnavailable, "volume: %w", err)
	}
	return nil
}

// Unmount ends what dir shows, also while it is in use, and removes the file.
// What is not there is no error.
func Unmount(image, dir string) error {
	for {
		mounted, err := Mounted(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !mounted {
			break
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return step.Errorf(step.KindInternal, "volume: %w", err)
		}
	}
	for _, path := range []string{image, image + part} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return step.Errorf(step.KindInternal, "volume: %w", err)
		}
	}
	return nil
}

// Mounted reports whether dir is the root of a file system of its own.
func Mounted(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Lstat(dir, &here); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &above); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	return here.Dev != above.Dev, nil
}

// Use is how much of the file system at dir is used.
type Use struct {
	Size, Used int64 // bytes
	Full       bool  // of bytes or of inodes
}

// Look measures the file system that dir is on.
func Look(dir string) (Use, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Use{}, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	block := st.Bsize
	return Use{
		Size: int64(st.Blocks) * block, Used: int64(st.Blocks-st.Bfree) * block, //nolint:gosec // sizes of file systems
		Full: int64(st.Bavail)*block < reserve || st.Files > 0 && st.Ffree == 0, //nolint:gosec // as above
	}, nil
}

// part is the end of the name of a file that is not whole yet.
const part = ".part"

// format makes the file, under another name until it is whole.
func format(ctx context.Context, image string, mb int64) error {
	tmp := image + part
	if err := os.WriteFile(tmp, nil, 0o600); err != nil {
		return step.Errorf(step.KindUnavailable, "volume: %w", err)
	}
	if err := os.Truncate(tmp, mb<<20); err != nil {
		return step.Errorf(step.KindUnavailable, "volume: %w", err)
	}
	err := tool(ctx, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", tmp)
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, image); err != nil {
		return step.Errorf(step.KindUnavailable, "volume: %w", err)
	}
	return nil
}

// check repairs what a fall of the host has left. Exit status 1 says that it
// did.
func check(ctx context.Context, image string) error {
	err := tool(ctx, "e2fsck", "-p", image)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil
	}
	return err
}

func tool(ctx context.Context, name string, args ...string) error {
	path, err := lookPath(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		text := strings.Join(strings.Fields(string(out)), " ")
		return step.Errorf(step.KindUnavailable, "volume: %s: %w: %.300s", name, err, text)
	}
	return nil
}

// lookPath finds a program where Debian has it, which is not on every path.
func lookPath(name string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", step.Errorf(step.KindUnavailable, "volume: no %s on this host (package e2fsprogs)", name)
}

// Available says what a host lacks for volumes; nil when nothing.
func Available() error {
	for _, name := range []string{"mkfs.ext4", "e2fsck"} {
		if _, err := lookPath(name); err != nil {
			return err
		}
	}
	if _, err := os.Stat(loopControl); err != nil {
		return step.Errorf(step.KindUnavailable, "volume: %w", err)
	}
	return nil
}

const loopControl = "/dev/loop-control"

// mount attaches the file to a free loop device and mounts it. The device
// frees itself when nothing shows it any more.
func mount(image, dir string) error {
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	for range 100 {
		device, err := attach(control, file)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, fs.ErrNotExist) {
			continue // somebody was faster, or the device's node is not there yet
		}
		if err != nil {
			return err
		}
		err = unix.Mount(device.Name(), dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV, "errors=remount-ro")
		return errors.Join(wrap("mount", err), device.Close())
	}
	return errors.New("no free loop device")
}

func attach(control, file *os.File) (*os.File, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, wrap("loop-control", err)
	}
	device, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(file.Fd())} //nolint:gosec // a descriptor
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		return nil, errors.Join(wrap(device.Name(), err), device.Close())
	}
	return device, nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
