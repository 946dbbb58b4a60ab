package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// Device is a whole block device.
type Device struct {
	Major, Minor uint32
	Path         string // like /dev/vda
}

// String gives the device as control groups name it.
func (d Device) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// DeviceOf finds the device that the file system at dir is on; of a partition,
// the disk that it is of. A file system that is on none of its own (btrfs,
// overlay, tmpfs) is unsupported.
func DeviceOf(dir string) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return Device{}, step.Errorf(step.KindInternal, "%s: %w", dir, err)
	}
	node := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	node, err := filepath.EvalSymlinks(node)
	if err != nil {
		return Device{}, step.Errorf(step.KindUnsupported, "%s is on no block device of its own, so its reads and writes cannot be bounded", dir)
	}
	if _, err := os.Stat(filepath.Join(node, "partition")); err == nil {
		node = filepath.Dir(node)
	}
	d := Device{}
	number, err := os.ReadFile(filepath.Join(node, "dev"))
	if err == nil {
		_, err = fmt.Sscanf(string(number), "%d:%d", &d.Major, &d.Minor)
	}
	if err != nil {
		return Device{}, step.Errorf(step.KindInternal, "block device of %s: %w", dir, err)
	}
	d.Path = "/dev/" + strings.ReplaceAll(filepath.Base(node), "!", "/")
	return d, nil
}

// Below lists what a cap on the input and output of a sandbox has to bound: the
// device that each folder's file system is on, and every disk of this host,
// since what a sandbox reads may lie on any. Memory and the loop devices of
// others are none.
func Below(dirs ...string) ([]Device, error) {
	var all []Device
	add := func(d Device) {
		if !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	for _, dir := range dirs {
		d, err := DeviceOf(dir)
		if err != nil && !step.Is(err, step.KindUnsupported) {
			return nil, err
		}
		if err == nil { // else it is on a disk all the same
			add(d)
		}
	}
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		return nil, step.Errorf(step.KindInternal, "block devices: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "loop") || strings.HasPrefix(e.Name(), "ram") || strings.HasPrefix(e.Name(), "zram") {
			continue
		}
		d := Device{Path: "/dev/" + strings.ReplaceAll(e.Name(), "!", "/")}
		number, err := os.ReadFile(filepath.Join("/sys/block", e.Name(), "dev"))
		if err != nil {
			continue // it has just gone
		}
		if _, err := fmt.Sscanf(string(number), "%d:%d", &d.Major, &d.Minor); err == nil {
			add(d)
		}
	}
	if len(all) == 0 {
		return nil, step.Errorf(step.KindUnsupported, "this host has no block device whose reads and writes could be bounded")
	}
	return all, nil
}
