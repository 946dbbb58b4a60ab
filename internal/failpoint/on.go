//go:build failpoint

package failpoint

import (
	"os"
	"path/filepath"
	"time"
)

// Points are the places that a folder arms, each by a file of its name. None
// are where the folder is "".
type Points struct{ dir string }

// FromEnv takes the folder from the environment. Call it once, in main.
func FromEnv() Points { return Points{os.Getenv(Env)} }

// Environ is what a parent hands on, so that its children's FromEnv find it.
func Environ() []string {
	if dir := os.Getenv(Env); dir != "" {
		return []string{Env + "=" + dir}
	}
	return nil
}

// Hold stays where it is if the place is armed, until the test removes the file
// PLACE.held or kills the process. A place is armed for one that comes by; of is
// whose it must be, "" = anybody's.
func (p Points) Hold(place, of string) {
	if p.dir == "" {
		return
	}
	armed := filepath.Join(p.dir, place)
	if of != "" {
		armed += "@" + of
	}
	held := filepath.Join(p.dir, place+".held")
	if os.Rename(armed, held) != nil {
		return // not armed, or somebody else came first
	}
	for {
		if _, err := os.Lstat(held); err != nil {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}
