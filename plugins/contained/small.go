package contained

import "github.com/nofx-run/nofx/sdk/step"

// Caps that a sandbox begins with, whatever its runtime needs: runc is a program
// of several threads that starts as the sandbox's first process, gVisor a kernel
// whose memory counts as the step's, and whose processes have a cap of their own.
const (
	enoughPids     = 16
	enoughMemoryMB = 16
	enoughGVisorMB = 64
)

// TooSmall blames the caps of a sandbox that did not begin, err, when they are
// so small that it may be theirs: then its runtime works, and the step is at
// fault. It is nil when err is.
func TooSmall(r step.Resources, gvisor bool, err error) error {
	memory := int64(enoughMemoryMB)
	if gvisor {
		memory = enoughGVisorMB
	}
	switch {
	case err == nil:
		return nil
	case !gvisor && r.Pids > 0 && r.Pids < enoughPids:
		return step.Errorf(step.KindInvalid, "pids: %d may be too few for a sandbox to begin, %d are enough: %w", r.Pids, enoughPids, err)
	case r.MemoryMB > 0 && r.MemoryMB < memory:
		return step.Errorf(step.KindInvalid, "memory_mb: %d may be too little for a sandbox to begin, %d is enough: %w", r.MemoryMB, memory, err)
	}
	return err
}
