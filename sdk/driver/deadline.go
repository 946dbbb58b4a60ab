package driver

import (
	"time"

	"golang.org/x/sys/unix"
)

// Deadline is a moment on this host's CLOCK_BOOTTIME, in nanoseconds, so that
// neither a clock step nor a delayed message moves it. 0 = none.
type Deadline int64

// Now is the present moment.
func Now() Deadline {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME is not there: " + err.Error())
	}
	return Deadline(ts.Nano())
}

// After is the moment d from now.
func After(d time.Duration) Deadline { return Now() + Deadline(d) }

// Left is the time until the deadline, negative when it has passed.
func (d Deadline) Left() time.Duration { return time.Duration(d - Now()) }
