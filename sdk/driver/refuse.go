package driver

import (
	"context"
	"io"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// CheckSpec refuses a spec that is not valid, and one that asks for what is
// not in the list. What it cannot know is the driver's to check: Image,
// Isolation.
func (cs Capabilities) CheckSpec(s Spec) error {
	if err := s.Validate(); err != nil {
		return err
	}
	switch s.Network {
	case "", step.NetworkNone, step.NetworkAllow, step.NetworkOpen:
	default:
		return step.Errorf(step.KindInvalid, "network %.40q is not known", s.Network)
	}
	r := s.Resources
	return cs.refuse([]need{
		{CapCPU, r.CPU > 0},
		{CapMemory, r.MemoryMB > 0},
		{CapPids, r.Pids > 0},
		{CapDisk, r.DiskMB > 0},
		{CapBlockIO, r.IOMBs > 0},
		{CapOutput, r.OutputKB > 0},
		{CapNetNone, s.Network == step.NetworkNone},
		{CapNetAllow, s.Network == step.NetworkAllow},
		{CapNetOpen, s.Network == step.NetworkOpen},
		{CapLease, s.Until != 0},
		{CapHost, s.Host != nil},
	})
}

// CheckExec is CheckSpec for an exec. User is the driver's to check.
func (cs Capabilities) CheckExec(e ExecSpec) error {
	if err := e.Validate(); err != nil {
		return err
	}
	return cs.refuse([]need{
		{CapTTY, e.TTY != nil},
		{CapWallTime, e.Timeout > 0},
		{CapOutput, e.OutputLimit > 0},
	})
}

// need is one thing that may be asked for.
type need struct {
	cap   Capability
	asked bool
}

func (cs Capabilities) refuse(needs []need) error {
	for _, n := range needs {
		if n.asked && !cs.Has(n.cap) {
			return step.Errorf(step.KindUnsupported, "this driver does not have %s", n.cap)
		}
	}
	return nil
}

// Base is embedded by drivers that cannot do everything: it refuses what has a
// capability of its own, and says that the driver is healthy.
type Base struct{}

// Extend refuses: no CapLease.
func (Base) Extend(context.Context, Handle, Deadline) error { return unsupported(CapLease) }

// CopyIn refuses: no CapFiles.
func (Base) CopyIn(context.Context, Handle, string, io.Reader) error { return unsupported(CapFiles) }

// CopyOut refuses: no CapFiles.
func (Base) CopyOut(context.Context, Handle, string, int64, io.Writer) error {
	return unsupported(CapFiles)
}

// Stats refuses: no CapStats.
func (Base) Stats(context.Context, Handle) (Stats, error) { return Stats{}, unsupported(CapStats) }

// Health says at once and every 10 s that all is well.
func (Base) Health(ctx context.Context, sink func(Health) error) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		if err := sink(Health{Healthy: true}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func unsupported(c Capability) error {
	return step.Errorf(step.KindUnsupported, "this driver does not have %s", c)
}
