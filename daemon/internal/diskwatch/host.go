package diskwatch

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/volume"
	"github.com/nofx-run/nofx/sdk/step"
)

// Host is the disk that a folder of this host is on.
type Host string

// Use implements Disk.
func (h Host) Use() (Use, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(string(h), &st); err != nil {
		return Use{}, err
	}
	return Use{
		Size: int64(st.Blocks) * st.Bsize, Used: int64(st.Blocks-st.Bfree) * st.Bsize, //nolint:gosec // sizes of file systems
		Free: int64(st.Bavail) * st.Bsize, Files: int64(st.Files - st.Ffree), //nolint:gosec // as above
	}, nil
}

// Volume implements Disk.
func (h Host) Volume(dir string) (Volume, error) {
	own, err := volume.Mounted(dir)
	if err != nil {
		return Volume{}, err
	}
	if !own {
		return Volume{}, step.Errorf(step.KindNotFound, "%s is no file system of its own", dir)
	}
	use, err := volume.Look(dir)
	return Volume{Used: use.Used, Full: use.Full}, err
}

// Size implements Disk.
func (h Host) Size(ctx context.Context, dir string, mostFiles int64, pids []int) (Size, error) {
	w := &walk{most: mostFiles, seen: map[uint64]struct{}{}}
	err := w.tree(ctx, dir)
	if err == nil {
		w.held(ctx, pids)
	}
	return w.size, err
}
