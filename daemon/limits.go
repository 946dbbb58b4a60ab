package daemon

import (
	"time"

	"github.com/nofx-run/nofx/internal/volume"
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

// Built-in defaults: more than all but a few steps need, and less than what one
// step may take from the others on a host of an ordinary size.
const (
	usualDiskMB = 10 << 10
	usualIOMBs  = 500
)

// Defaults are what a step gets of the disk when neither it nor anybody above it
// says anything. Nil is the built-in one, zero none.
type Defaults struct {
	DiskMB *int64 `yaml:"disk_mb"`
	IOMBs  *int64 `yaml:"io_mb_s"`
}

func (d Defaults) check() error {
	r := d.resources()
	if r.DiskMB != 0 && r.DiskMB < step.MinDiskMB || r.DiskMB > volume.MaxMB {
		return step.Errorf(step.KindInvalid, "configuration: defaults: disk_mb: %d is not from %d to %d; 0 is no bound", r.DiskMB, step.MinDiskMB, volume.MaxMB)
	}
	if r.IOMBs < 0 || r.IOMBs > mostIOMBs {
		return step.Errorf(step.KindInvalid, "configuration: defaults: io_mb_s: %d is not from 1 to %d; 0 is no bound", r.IOMBs, mostIOMBs)
	}
	return nil
}

// mostIOMBs is more than any device does.
const mostIOMBs = 1 << 20

func (d Defaults) resources() step.Resources {
	r := step.Resources{DiskMB: usualDiskMB, IOMBs: usualIOMBs}
	if d.DiskMB != nil {
		r.DiskMB = *d.DiskMB
	}
	if d.IOMBs != nil {
		r.IOMBs = *d.IOMBs
	}
	return r
}
