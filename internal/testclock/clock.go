// Package testclock shifts the wall clock of a program that a test starts, and
// nothing else's, by Debian's libfaketime. The program has to be linked with the
// C library, as Postgres is and NOFX's own are not.
package testclock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Clock is how far a program's clock is ahead of the machine's. The program is
// started with Env and follows Set from then on. Its monotonic clock is as it was.
type Clock struct {
	file, library string
}

// New makes a clock that shows the machine's time. dir is a folder that the
// program can read.
func New(dir string) (*Clock, error) {
	found, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if err != nil || len(found) == 0 {
		return nil, errors.New("no libfaketime below /usr/lib: install the package libfaketime")
	}
	c := &Clock{file: filepath.Join(dir, "clock"), library: found[0]}
	return c, c.Set(0)
}

// Env is what the program's environment has to have.
func (c *Clock) Env() []string {
	return []string{"LD_PRELOAD=" + c.library, "FAKETIME_TIMESTAMP_FILE=" + c.file, "FAKETIME_NO_CACHE=1",
		"FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_DISABLE_SHM=1"}
}

// Set steps the clock to so much ahead of the machine's; less than 0 = behind.
func (c *Clock) Set(ahead time.Duration) error {
	next := c.file + ".next"                                                                               // whoever looks at this moment finds one or the other
	if err := os.WriteFile(next, fmt.Appendf(nil, "%+d\n", int64(ahead/time.Second)), 0o644); err != nil { //nolint:gosec // another user's program reads it
		return err
	}
	return os.Rename(next, c.file)
}
