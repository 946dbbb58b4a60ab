package supervised

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// OwnFolder makes the folder that sandboxes keep their state in, closed to all
// but root, and gives its path without links. One that is there is taken when
// it is closed already, or empty: a folder that others use is not closed to
// them.
func OwnFolder(path string) (string, error) {
	bad := func(format string, args ...any) (string, error) {
		return "", step.Errorf(step.KindInvalid, "configuration: state_dir: "+format, args...)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return bad("%w", err)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return bad("%w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(real, &st); err != nil {
		return bad("%w", &fs.PathError{Op: "stat", Path: real, Err: err})
	}
	if st.Uid == uint32(os.Geteuid()) && st.Mode&0o077 == 0 { //nolint:gosec // a uid
		return real, nil
	}
	if entries, err := os.ReadDir(real); err != nil || len(entries) > 0 {
		return bad("%s holds something and is open to others than root: name a folder of its own, or close this one (chown root, chmod 700)", real)
	}
	if err := errors.Join(os.Chown(real, os.Geteuid(), os.Getegid()), os.Chmod(real, 0o700)); err != nil { //nolint:gosec // a folder
		return bad("%w", err)
	}
	return real, nil
}
