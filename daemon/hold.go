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
// Anybody may take such a name; only root's counts, and nobody else keeps a daemon
// from starting.
func holdGroups(root string) (io.Closer, error) {
	sum := sha256.Sum256([]byte(filepath.Clean(root)))
	name := "@nofx-groups-" + hex.EncodeToString(sum[:16])
	hold, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", name)
	for end := time.Now().Add(holdTime); errors.Is(err, unix.EADDRINUSE); {
		if uid, asked := holder(name); asked == nil && uid != 0 {
			return nobody{}, nil
		}
		if time.Now().After(end) {
			return nil, step.Errorf(step.KindConflict, "another daemon on this host has the cgroup_root %s: each needs one of its own, and a data_dir and uid range", root)
		}
		<-time.After(holdTime / 100)
		hold, err = (&net.ListenConfig{}).Listen(context.Background(), "unix", name)
	}
	return hold, err
}

// nobody is a hold that somebody without rights has taken the name of.
type nobody struct{}

func (nobody) Close() error { return nil }

// holder is the user who listens at a socket.
func holder(name string) (uid uint32, err error) {
	conn, err := (&net.Dialer{Timeout: holdTime / 2}).DialContext(context.Background(), "unix", name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	if ctl := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctl != nil || err != nil {
		return 0, errors.Join(ctl, err)
	}
	return peer.Uid, nil
}
