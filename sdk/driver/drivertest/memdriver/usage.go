package memdriver

import (
	"sync"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// taskMemory is what every task counts for, in bytes.
const taskMemory = 64 << 10

// usage is what a sandbox uses of its caps.
type usage struct {
	caps step.Resources

	mu             sync.Mutex
	pids, pidsPeak int64
	mem, memPeak   int64
	cpuUsec        int64
}

// addTask counts one more task, unless the cap forbids it.
func (u *usage) addTask() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.caps.Pids > 0 && u.pids >= u.caps.Pids {
		return false
	}
	u.pids++
	u.pidsPeak = max(u.pidsPeak, u.pids)
	u.mem += taskMemory
	u.memPeak = max(u.memPeak, u.mem)
	return true
}

func (u *usage) endTask() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pids--
	u.mem -= taskMemory
}

// alloc takes n bytes of memory (gives them back when negative), unless the
// cap forbids it.
func (u *usage) alloc(n int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if limit := u.caps.MemoryMB << 20; limit > 0 && u.mem+n > limit {
		u.memPeak = limit
		return false
	}
	u.mem += n
	u.memPeak = max(u.memPeak, u.mem)
	return true
}

func (u *usage) spent(cpuUsec int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cpuUsec += cpuUsec
}

func (u *usage) stats() driver.Stats {
	u.mu.Lock()
	defer u.mu.Unlock()
	return driver.Stats{
		CPUUsec: u.cpuUsec, MemoryBytes: u.mem, MemoryPeak: u.memPeak, Pids: u.pids, PidsPeak: u.pidsPeak,
		IOReadBytes: -1, IOWriteBytes: -1, NetRxBytes: -1, NetTxBytes: -1,
	}
}
