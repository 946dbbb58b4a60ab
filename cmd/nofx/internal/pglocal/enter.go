package pglocal

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// EnterCommand is the hidden argument that main hands to Enter:
//
//	nofx postgres-enter FOLDER UID GID PROGRAM [ARG...]
//
// The caller has started it in a new mount namespace.
const EnterCommand = "postgres-enter"

// Enter shows FOLDER at Inside, becomes UID and GID for good and executes
// PROGRAM. It returns only with an error.
func Enter(args []string) error {
	if len(args) < 4 {
		return fmt.Errorf("usage: %s FOLDER UID GID PROGRAM [ARG...]", EnterCommand)
	}
	uid, err := strconv.Atoi(args[1])
	if err != nil || uid <= 0 {
		return fmt.Errorf("bad uid %q", args[1])
	}
	gid, err := strconv.Atoi(args[2])
	if err != nil || gid <= 0 {
		return fmt.Errorf("bad gid %q", args[2])
	}
	// no_new_privs belongs to the thread that executes the program.
	runtime.LockOSThread()
	if err := unix.Mount(args[0], Inside, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show %s at %s: %w", args[0], Inside, err)
	}
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	unix.Umask(0o077)
	if err := unix.Exec(args[3], args[3:], os.Environ()); err != nil {
		return fmt.Errorf("%s: %w", args[3], err)
	}
	return nil
}
