package supervisor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Why tells why a supervisor ended an exec.
type Why uint8

// The reasons, as in src/proto.h.
const (
	WhyNone      Why = 0 // it ended by itself
	WhyTimeout   Why = 1
	WhyOutput    Why = 2
	WhyCancelled Why = 3
	WhyLease     Why = 4
	WhyOOM       Why = 5
	WhyLost      Why = 6
	WhyStart     Why = 7 // it never ran; StartErrno says why
)

// Record is how an exec ended. Negative counters are not known.
type Record struct {
	Magic, Version         uint32
	Why                    Why
	Truncated, HasStatus   bool
	_                      [5]byte
	WaitStatus, StartErrno int32
	StartedNS, EndedNS     uint64 // CLOCK_BOOTTIME
	Kept, Total            uint64 // bytes of output
	CPUUsec                int64
	MemoryPeak, PidsPeak   int64
	IORead, IOWrite        int64
	OOMKills, PidsDenied   uint64 // while the exec ran
	NoteText               [96]byte
}

const (
	exitMagic  = 0x4558464e
	frameMagic = 0x4f58464e
	stateMagic = 0x5358464e
	version    = 1
)

// Note is a word of explanation, or "".
func (r *Record) Note() string {
	n := bytes.IndexByte(r.NoteText[:], 0)
	if n < 0 {
		n = len(r.NoteText)
	}
	return string(r.NoteText[:n])
}

// ReadRecord reads how an exec ended; fs.ErrNotExist when it has not.
func ReadRecord(dir, id string) (*Record, error) {
	data, err := os.ReadFile(filepath.Join(dir, "exec-"+id+".exit"))
	if err != nil {
		return nil, err
	}
	var r Record
	if _, err := binary.Decode(data, binary.LittleEndian, &r); err != nil || r.Magic != exitMagic || r.Version != version {
		return nil, fmt.Errorf("exec %s: its record cannot be read (%d bytes)", id, len(data))
	}
	return &r, nil
}

// WriteLost records an exec as lost whose supervisor can no more; kept is
// what is there of its output.
func WriteLost(dir, id, note string, kept int64) error {
	r := Record{
		Magic: exitMagic, Version: version, Why: WhyLost, Kept: uint64(kept), Total: uint64(kept),
		CPUUsec: -1, MemoryPeak: -1, PidsPeak: -1, IORead: -1, IOWrite: -1,
	}
	copy(r.NoteText[:len(r.NoteText)-1], note)
	data, err := binary.Append(nil, binary.LittleEndian, &r)
	if err != nil {
		return fmt.Errorf("exec %s: %w", id, err)
	}
	part := filepath.Join(dir, "exec-"+id+".part")
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return fmt.Errorf("exec %s: %w", id, err)
	}
	return os.Rename(part, filepath.Join(dir, "exec-"+id+".exit"))
}

// Execs gives the ids of all execs that a sandbox has had, sorted.
func Execs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutPrefix(e.Name(), "exec-"); ok {
			if id, ok := strings.CutSuffix(id, ".out"); ok {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

// State says who runs a sandbox, or ran it.
type State struct {
	Magic, Version         uint32
	SupervisorPID, InitPID int32
	InitStart              uint64 // field 22 of /proc/<pid>/stat
	CreatedNS              uint64 // CLOCK_BOOTTIME
}

// Life is what can be told of a supervisor without asking it.
type Life struct {
	Complete bool // its sandbox was ready once
	Alive    bool
	State    State // zero when not Complete
}

// Look reads a sandbox's state and whether its supervisor lives, which the
// lock on the file tells: it goes with the process that holds it.
func Look(dir string) (Life, error) {
	f, err := os.Open(filepath.Join(dir, "state"))
	if errors.Is(err, fs.ErrNotExist) {
		return Life{}, nil
	}
	if err != nil {
		return Life{}, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return Life{}, fmt.Errorf("state: %w", err)
	}
	l := Life{Alive: lock.Type != unix.F_UNLCK}
	buf := make([]byte, binary.Size(&l.State))
	if n, _ := f.ReadAt(buf, 0); n < len(buf) {
		return l, nil
	}
	if _, err := binary.Decode(buf, binary.LittleEndian, &l.State); err != nil || l.State.Magic != stateMagic || l.State.Version != version {
		return l, fmt.Errorf("state: the file cannot be read")
	}
	l.Complete = true
	return l, nil
}
