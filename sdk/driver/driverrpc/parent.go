package driverrpc

import (
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// exitWithParent ends this process when the one that started it has died.
// PR_SET_PDEATHSIG would fire when the thread that forked us ends, which in a
// Go host says nothing.
func exitWithParent() {
	parent := os.Getppid()
	if host := os.Getenv(EnvHostPID); host != "" && host != strconv.Itoa(parent) {
		os.Exit(0) // it died before we looked
	}
	if parent <= 1 {
		return // the host is the first process of our pid namespace, and takes us with it
	}
	if !waitForPidfd(parent) {
		for os.Getppid() == parent {
			time.Sleep(time.Second)
		}
	}
	os.Exit(0)
}

// waitForPidfd returns true when process pid, our parent, has died, and false
// when the kernel cannot tell.
func waitForPidfd(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	if os.Getppid() != pid {
		return true // it died before the descriptor was open; pid may be another's by now
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n > 0
	}
}
