package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// holdTime is how long a daemon that has been killed may take to be gone.
const holdTime = 2 * time.Second

// holdGroups makes this process the only daemon of the host with that cgroup_root
// until it is closed: to a sweep, another one's steps look like what a crash has
// left. The hold is an abstract socket, which the kernel drops with the process.
func holdGroups(root string) (io.Closer, error) {
	sum := sha256.Sum256([]byte(filepath.Clean(root)))
	name := "@nofx-groups-" + hex.EncodeToString(sum[:16])
	hold, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", name)
	for end := time.Now().Add(holdTime); errors.Is(err, unix.EADDRINUSE) && time.Now().Before(end); {
		<-time.After(holdTime / 100)
		hold, err = (&net.ListenConfig{}).Listen(context.Background(), "unix", name)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, step.Errorf(step.KindConflict, "another daemon on this host has the cgroup_root %s: each needs one of its own, and a data_dir and uid range", root)
	}
	return hold, err
}
