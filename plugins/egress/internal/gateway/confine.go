package gateway

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/plugins/seccomp"
)

// confine shuts the process into an empty folder, as a user who has nothing,
// for good. It keeps the host's network and nothing else.
func confine(root string, uid uint32) error {
	if uid == 0 {
		return fmt.Errorf("the gateway does not run as root")
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir: %w", err)
	}
	// The standard library's calls change every thread.
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	if err := syscall.Setresgid(int(uid), int(uid), int(uid)); err != nil {
		return fmt.Errorf("gid: %w", err)
	}
	if err := syscall.Setresuid(int(uid), int(uid), int(uid)); err != nil { // and the capabilities go
		return fmt.Errorf("uid: %w", err)
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("no_new_privs: %w", errno)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	return filter()
}

// filter allows this process the system calls that a step has.
func filter() error {
	program, err := seccomp.Step()
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(program) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}                              //nolint:gosec // the kernel's own encoding
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))) //nolint:gosec // as above
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
