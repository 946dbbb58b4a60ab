package contained

import (
	"os"
	"path/filepath"
	"reflect"
	"strconv"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// RunscFlags are those that runsc needs for our sandboxes: PID 1 connects to
// the socket that is mounted into them, and sets the cap on processes itself.
// The others leave nothing of runsc's own on the host.
var RunscFlags = [...]string{"--host-uds=open", "--in-sandbox-cgroup=v2", "--gofer-network-namespace=new"}

// ByGofer lets gVisor's file server in, which calls in the name of what runs in
// the sandbox and is in the control groups of pid, the process that holds its
// kernel. Where pid itself calls, the sandbox has the host's kernel.
func ByGofer(pid int) func(int) error {
	return func(peer int) error {
		if peer == pid {
			return step.Errorf(step.KindInvalid, "the runtime is not gVisor's: the sandbox's first process is one of the host's")
		}
		ours, err := GroupOf(pid)
		if err != nil {
			return step.Errorf(step.KindInternal, "the sandbox's control group: %w", err)
		}
		theirs, err := GroupOf(peer)
		if err != nil {
			return step.Errorf(step.KindInternal, "the control group of process %d: %w", peer, err)
		}
		if !reflect.DeepEqual(ours, theirs) {
			return step.Errorf(step.KindInternal, "process %d called, which is not in the sandbox's control group", peer)
		}
		return nil
	}
}

// HostPids is how many of the host's processes and threads a sandbox may have
// whose kernel is gVisor's and gives its step so many: that kernel has threads
// of its own, and about two for each process. The step's cap is kept in there;
// this one keeps gVisor itself from the host.
func HostPids(pids int64) int64 {
	if pids <= 0 {
		return 0
	}
	return 4*pids + 256
}

// RaisePids gives the daemon's group room for gVisor's own processes: it was
// made for the step's.
func RaisePids(g driver.Cgroup, pids int64) error {
	dir := g.V2
	if dir == "" {
		dir = g.V1["pids"]
	}
	if pids <= 0 || dir == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, "pids.max"), strconv.AppendInt(nil, HostPids(pids), 10), 0); err != nil {
		return step.Errorf(step.KindUnavailable, "the sandbox's control group: %w", err)
	}
	return nil
}
