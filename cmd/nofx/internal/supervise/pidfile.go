package supervise

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

	"github.com/google/renameio/v2"

	"github.com/nofx-run/nofx/internal/bootid"
)

// A process has two files in the run folder: NAME.pid with the number alone,
// for scripts, and NAME.json with what tells this process from a later one of
// the same number.
type identity struct {
	Pid    int    `json:"pid"`
	Start  uint64 `json:"start_ticks"` // field 22 of /proc/PID/stat
	BootID string `json:"boot_id"`
}

func writePid(dir, name string, pid int) error {
	id, err := identify(pid)
	if err != nil {
		return err
	}
	body, err := json.Marshal(id)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, name+".json"), body, 0o600); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, name+".pid"), []byte(strconv.Itoa(pid)+"\n"), 0o644)
}

func removePid(dir, name string) error {
	var errs []error
	for _, ext := range []string{".pid", ".json"} {
		if err := os.Remove(filepath.Join(dir, name+ext)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func readIdentity(dir, name string) (identity, error) {
	var id identity
	body, err := os.ReadFile(filepath.Join(dir, name+".json"))
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(body, &id); err != nil {
		return id, fmt.Errorf("%s.json: %w", name, err)
	}
	return id, nil
}

// identify reads what tells this incarnation of a pid from all others.
func identify(pid int) (identity, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return identity{}, err
	}
	// The command's name may hold spaces and parentheses; fields count from
	// behind its last one.
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return identity{}, fmt.Errorf("unreadable /proc/%d/stat", pid)
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 20 {
		return identity{}, fmt.Errorf("unreadable /proc/%d/stat", pid)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return identity{}, fmt.Errorf("unreadable /proc/%d/stat: %w", pid, err)
	}
	boot, err := bootid.Read()
	if err != nil {
		return identity{}, err
	}
	return identity{Pid: pid, Start: start, BootID: boot}, nil
}
