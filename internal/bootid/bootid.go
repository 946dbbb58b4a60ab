// Package bootid tells one start of the host from another: pids, and what was
// written and not synced, mean something only within one.
package bootid

import (
	"os"
	"strings"
)

// Read gives the kernel's id of this start, a UUID.
func Read() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}
