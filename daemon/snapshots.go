package daemon

import (
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Snapshots says how the workspaces of runs are saved, so that other hosts can
// go on from there.
type Snapshots struct {
	Off   bool  `yaml:"off"`    // they are not; a run stays bound to this host
	MaxMB int64 `yaml:"max_mb"` // MiB of files in one layer; 0 = 1024
}

const mostLayerMB = wire.MaxArtifactBytes >> 20

func (s Snapshots) check() error {
	if s.MaxMB < 0 || s.MaxMB > mostLayerMB {
		return step.Errorf(step.KindInvalid, "configuration: snapshots.max_mb: %d is not from 1 to %d", s.MaxMB, mostLayerMB)
	}
	return nil
}

// bytes is what a layer may hold; 0 = there are none.
func (s Snapshots) bytes() int64 {
	switch {
	case s.Off:
		return 0
	case s.MaxMB == 0:
		return mostLayerMB << 20
	}
	return s.MaxMB << 20
}
