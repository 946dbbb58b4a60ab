package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/pidfd"
	"github.com/nofx-run/nofx/sdk/step"
)

// CountersSize is the length of the file of counters, in bytes.
const CountersSize = 4096

// Where what lies in the file: words of 8 bytes, little-endian, and a text.
const (
	WordReceived = iota
	WordSent
	WordRefused
	WordReady

	RefusalAt  = 64  // u16 length, bytes
	MaxRefusal = 256 // bytes
)

// Use is what a sandbox did with its network.
type Use struct {
	Ready          bool
	Ended          bool   // it was ready, and nobody serves any more
	Received, Sent int64  // bytes of payload
	Refused        int64  // calls
	Refusal        string // why the first was refused
}

// ReadUse reads what a sandbox has used so far; fs.ErrNotExist when it never
// had a network.
func ReadUse(dir string) (Use, error) {
	f, err := os.Open(filepath.Join(dir, countersFile))
	if err != nil {
		return Use{}, err
	}
	defer f.Close()
	u, err := readUse(f)
	if err == nil && u.Ready { // and so locked by nobody but its gateway
		u.Ended = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil
	}
	return u, err
}

func readUse(f io.ReaderAt) (Use, error) {
	page := make([]byte, CountersSize)
	if _, err := f.ReadAt(page, 0); err != nil {
		return Use{}, step.Errorf(step.KindInternal, "network: counters: %w", err)
	}
	n := func(i int) int64 { return int64(min(binary.LittleEndian.Uint64(page[8*i:]), 1<<62)) } //nolint:gosec // bounded
	u := Use{Ready: n(WordReady) == 1, Received: n(WordReceived), Sent: n(WordSent), Refused: n(WordRefused)}
	if length := int(binary.LittleEndian.Uint16(page[RefusalAt:])); length <= MaxRefusal {
		u.Refusal = strings.ToValidUTF8(string(page[RefusalAt+2:RefusalAt+2+length]), "")
	}
	return u, nil
}

// pidOf is the process of a sandbox's gateway, 0 when there never was one. It
// is the driver's word: what the gateway writes could name anybody.
func pidOf(dir string) (int, error) {
	data, err := os.ReadFile(filepath.Join(dir, pidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, step.Errorf(step.KindInternal, "network: %w", err)
	}
	pid, _ := strconv.Atoi(string(data)) // cut off, it was before the configuration, and the gateway ends by itself
	return pid, nil
}

// stop kills the gateway that holds the lock of f and waits for it to be gone.
func stop(ctx context.Context, dir string, f *os.File) error {
	free := func() bool { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil }
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if free() {
			return nil
		}
		pid, err := pidOf(dir)
		if err != nil {
			return err
		}
		if pid > 1 {
			if err := pidfd.Kill(pid, func() (bool, error) { return !free(), nil }); err != nil {
				return err
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return step.Errorf(step.KindUnavailable, "the sandbox's gateway, process %d, does not end", pid)
		}
	}
}
