package runs

import (
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/internal/admission"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// needs are the capabilities that a queued step needs of its driver, as far as its
// command is not sealed.
func needs(s pgdb.ListStepsRow, d wire.StepDetail) []driver.Capability {
	l := wire.Lease{Resources: d.Resources, TimeoutMS: d.TimeoutMS, Network: step.Network(s.Network), Artifacts: s.Artifacts, Command: wire.Command{Isolation: s.Isolation}}
	if s.Files {
		l.Command.Files = make([]wire.CommandFile, 1)
	}
	return admission.Needs(l, s.Shares)
}
