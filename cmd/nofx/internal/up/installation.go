package up

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// The uid ranges of installations lie side by side in a part of the uid space
// that neither Debian, systemd nor Docker hands out.
const (
	uidFirst  = 1879113728
	uidCount  = 131072
	uidRanges = 2047
)

// installation is what tells several data folders on one host apart.
type installation struct {
	ID      string `json:"id"`       // 8 hex digits, in the cgroup's name
	UIDBase uint32 `json:"uid_base"` // first of uidCount
}

func (i installation) cgroupRoot() string { return "nofx-" + i.ID + ".slice" }

// claim loads the folder's installation or makes one, and holds its uid range
// on this host until the returned listener is closed. The hold is an abstract
// socket, which the kernel drops with the process.
func claim(dir string) (installation, net.Listener, error) {
	path := filepath.Join(dir, "installation.json")
	body, err := os.ReadFile(path)
	switch {
	case err == nil:
		var inst installation
		if err := json.Unmarshal(body, &inst); err != nil || len(inst.ID) != 8 || inst.UIDBase < uidFirst {
			return installation{}, nil, fmt.Errorf("%s is damaged: remove the data folder or restore the file", path)
		}
		hold, err := holdUIDs(inst.UIDBase)
		if err != nil {
			return installation{}, nil, step.Errorf(step.KindConflict,
				"another installation on this host uses the uids from %d on: stop it, or use another data folder", inst.UIDBase)
		}
		return inst, hold, nil
	case !errors.Is(err, fs.ErrNotExist):
		return installation{}, nil, err
	}
	for range 16 {
		inst, err := newInstallation()
		if err != nil {
			return installation{}, nil, err
		}
		hold, err := holdUIDs(inst.UIDBase)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return installation{}, nil, err
		}
		body, err := json.Marshal(inst)
		if err == nil {
			err = renameio.WriteFile(path, append(body, '\n'), 0o600)
		}
		if err != nil {
			return installation{}, nil, errors.Join(err, hold.Close())
		}
		return inst, hold, nil
	}
	return installation{}, nil, errors.New("no free uid range on this host")
}

func newInstallation() (installation, error) {
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return installation{}, err
	}
	n, err := rand.Int(rand.Reader, big.NewInt(uidRanges))
	if err != nil {
		return installation{}, err
	}
	return installation{
		ID:      hex.EncodeToString(id[:]),
		UIDBase: uint32(uidFirst + n.Int64()*uidCount),
	}, nil
}

func holdUIDs(base uint32) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(context.Background(), "unix", "@nofx-uids-"+strconv.FormatUint(uint64(base), 10))
}

// lock makes this process the only one on the data folder.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, step.Errorf(step.KindConflict, "another nofx up runs on %s", dir)
		}
		return nil, err
	}
	return f, nil
}
