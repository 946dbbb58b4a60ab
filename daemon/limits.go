package daemon

import (
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// Limits are the most that any step gets on this host, whatever the API says.
// Zero is no limit.
type Limits struct {
	CPU      float64       `yaml:"cpu"`
	MemoryMB int64         `yaml:"memory_mb"`
	Pids     int64         `yaml:"pids"`
	DiskMB   int64         `yaml:"disk_mb"`
	IOMBs    int64         `yaml:"io_mb_s"`
	OutputKB int64         `yaml:"output_kb"`
	Timeout  time.Duration `yaml:"timeout"`
	Network  step.Network  `yaml:"network"` // none, allow or open; "" = open
}

func (l Limits) check() error {
	if err := l.resources().CheckMost(); err != nil {
		return step.Errorf(step.KindInvalid, "configuration: limits: %w", err)
	}
	if l.Timeout != 0 && l.Timeout < time.Millisecond {
		return step.Errorf(step.KindInvalid, "configuration: limits: timeout: %s is less than a millisecond; leave it out for no limit", l.Timeout)
	}
	if l.Network != "" && l.Network.Rank() > step.NetworkOpen.Rank() {
		return step.Errorf(step.KindInvalid, "configuration: limits: network: %.40q is none of none, allow and open", string(l.Network))
	}
	return nil
}

func (l Limits) resources() step.Resources {
	return step.Resources{CPU: l.CPU, MemoryMB: l.MemoryMB, Pids: l.Pids, DiskMB: l.DiskMB, IOMBs: l.IOMBs, OutputKB: l.OutputKB}
}
