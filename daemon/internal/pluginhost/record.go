package pluginhost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/bootid"
)

// recordSuffix ends the names of the records in the socket folder.
const recordSuffix = ".process.json"

// record identifies a plugin's process beyond doubt: a pid alone may be
// somebody else's by the time that it is read.
type record struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, from /proc/PID/stat
	Boot  string `json:"boot"`  // the kernel's boot id
	Exe   string `json:"exe"`   // the target of /proc/PID/exe
}

// describeProcess reads a live process's record.
func describeProcess(pid int) (record, error) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return record{}, err
	}
	// The name in parentheses may hold anything; the fields follow the last one.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return record{}, fmt.Errorf("%s/stat has %d fields", proc, len(fields))
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return record{}, err
	}
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil {
		return record{}, err
	}
	boot, err := bootid.Read()
	if err != nil {
		return record{}, err
	}
	return record{PID: pid, Start: start, Boot: boot, Exe: strings.TrimSuffix(exe, " (deleted)")}, nil
}

// traces are the files that tell of one running process of a plugin. While a
// new one takes an old one's place there are two: each has a record, and the
// pid file is that of the one in use.
type traces struct{ dir, name, record, pid string }

func tracesOf(cfg Config, name string) traces {
	t := traces{dir: cfg.SocketDir, name: name}
	if cfg.PidDir != "" {
		t.pid = filepath.Join(cfg.PidDir, prefix+name+".pid")
	}
	return t
}

// write records process pid.
func (t *traces) write(pid int) error {
	r, err := describeProcess(pid)
	if err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	t.record = filepath.Join(t.dir, fmt.Sprintf("%s.%d%s", t.name, pid, recordSuffix))
	return renameio.WriteFile(t.record, data, 0o600)
}

// announce writes the pid file.
func (t *traces) announce(pid int) error {
	if t.pid == "" {
		return nil
	}
	return renameio.WriteFile(t.pid, pidLine(pid), 0o644, renameio.IgnoreUmask())
}

func pidLine(pid int) []byte { return []byte(strconv.Itoa(pid) + "\n") }

// remove removes what write and announce made for this process.
func (t *traces) remove(pid int) error {
	var errs []error
	for _, name := range []string{t.pid, t.record} {
		if name == "" {
			continue
		}
		if name == t.pid {
			if data, err := os.ReadFile(name); err != nil || !bytes.Equal(data, pidLine(pid)) {
				continue // another's
			}
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// killRecorded kills the recorded processes that are still the same, waits for
// their end and removes the records. It gives those that it killed, and those that
// cannot be killed within a limit, whose records stay.
func killRecorded(dir string, limit time.Duration) (killed, stuck []record, _ error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+recordSuffix))
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return killed, stuck, err
		}
		var r record
		if json.Unmarshal(data, &r) == nil && r.PID > 1 {
			ours, err := killIfSame(r, limit)
			if errors.Is(err, errStuck) {
				stuck = append(stuck, r)
				continue
			}
			if err != nil {
				return killed, stuck, fmt.Errorf("plugin process %d of an earlier host: %w", r.PID, err)
			}
			if ours {
				killed = append(killed, r)
			}
		}
		if err := os.Remove(name); err != nil {
			return killed, stuck, err
		}
	}
	return killed, stuck, nil
}

var errStuck = errors.New("it did not end after SIGKILL")

// killIfSame kills the process of r if it is still that process.
func killIfSame(r record, limit time.Duration) (bool, error) {
	// The descriptor first: whatever it names stays named by it, so that what
	// is checked next is what is killed.
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }()
	now, err := describeProcess(r.PID)
	if err != nil || now != r {
		return false, nil // it has ended, or the pid is another's
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, err
	}
	return true, waitPidfd(fd, limit)
}

// waitPidfd waits for a process's end.
func waitPidfd(fd int, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return errStuck
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}
