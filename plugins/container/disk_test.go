package container

import (
	"testing"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func TestDiskCap(t *testing.T) {
	t.Parallel()
	limit := func(s *driver.Spec) { s.Resources.DiskMB = 16 }
	d := configured(t)
	h, _ := newBox(t, d, limit)
	if r := run(t, d, h, "head -c 4000000 /dev/zero >/workspace/some"); r.exit.Cause != step.CauseExit || r.exit.Code != 0 || r.exit.Usage.DiskBytes < 4000000 {
		t.Errorf("4 of 16: %+v", r)
	}
	if r := run(t, d, h, "head -c 40000000 /dev/zero >/workspace/big"); r.exit.Cause != step.CauseDisk {
		t.Errorf("40 of 16: %+v", r)
	}
	// The container's own layer would be another disk, which nothing bounds.
	loose := configured(t, func(c *Config) { c.WritableRoot = true })
	if desc, err := loose.Describe(t.Context()); err != nil || desc.Capabilities.Has(driver.CapDisk) {
		t.Errorf("writable_root: %v, %v", desc.Capabilities, err)
	}
	s := newSpec(t, limit)
	if _, err := loose.Create(t.Context(), s); !step.Is(err, step.KindUnsupported) {
		t.Errorf("writable_root: %v", err)
	}
}

func TestBlockIO(t *testing.T) {
	t.Parallel()
	d := configured(t)
	h, _ := newBox(t, d, func(s *driver.Spec) { s.Resources.IOMBs = 2 })
	r := run(t, d, h, "dd if=/dev/zero of=/workspace/f bs=1M count=6 oflag=direct 2>/dev/null")
	if r.exit.Code != 0 || r.exit.Usage.WallMS < 1500 {
		t.Errorf("6 MiB at 2 MiB a second: %+v", r)
	}
}
