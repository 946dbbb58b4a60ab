package plan

import (
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Caps are a step's resources as they are stored, with the names of those that
// nobody asked for: see wire.Lease.
type Caps struct {
	step.Resources
	Defaults []string `json:"defaults,omitempty"`
}

// Caps are what holds for the step, within its tenant's ceiling when that has been
// applied.
func (s Step) Caps() Caps {
	c, own := Caps{Resources: s.Resources}, s.asked
	for _, of := range []struct {
		name  string
		has   bool
		asked bool
	}{
		{"cpu", c.CPU > 0, own.CPU > 0},
		{"memory_mb", c.MemoryMB > 0, own.MemoryMB > 0},
		{"pids", c.Pids > 0, own.Pids > 0},
		{"disk_mb", c.DiskMB > 0, own.DiskMB > 0},
		{"io_mb_s", c.IOMBs > 0, own.IOMBs > 0},
		{"output_kb", c.OutputKB > 0, own.OutputKB > 0},
		{wire.CapTimeout, s.TimeoutMS > 0, own.timeoutMS > 0},
	} {
		if of.has && !of.asked {
			c.Defaults = append(c.Defaults, of.name)
		}
	}
	return c
}
