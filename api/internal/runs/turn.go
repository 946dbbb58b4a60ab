package runs

import (
	"fmt"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// held says why a run has not been let begin.
func held(out *wire.RunSummary, row pgdb.GetRunRow, tenant pgdb.TenantTurnRow) {
	if out.Status.Terminal() {
		return
	}
	switch {
	case row.Hold == "time":
		at := row.StartAt.UTC()
		out.StartAt, out.WaitingFor = &at, "its time, "+at.Format(time.RFC3339)
	case row.Hold == "turn" && row.ConcurrencyKey != "":
		out.WaitingFor = fmt.Sprintf("its turn: %d at once of the runs with the key %q", row.ConcurrencyMost, row.ConcurrencyKey)
		if tenant.MaxRuns > 0 {
			out.WaitingFor += fmt.Sprintf(", and %d of the tenant's (quota max_concurrent_runs)", tenant.MaxRuns)
		}
	case row.Hold == "turn" && tenant.MaxRuns > 0:
		out.WaitingFor = fmt.Sprintf("its turn: %d runs of the tenant at once (quota max_concurrent_runs)", tenant.MaxRuns)
	case row.Hold == "turn": // for a moment: its time has come, or the bound is gone
		out.WaitingFor = "its turn"
	}
}

// turnOf says why it is not a step's turn; "" = nothing is known that bars it.
func turnOf(s pgdb.ListStepsRow, run wire.RunSummary, tenant pgdb.TenantTurnRow) string {
	switch {
	case s.Status == string(step.StepWaiting) && s.DepsLeft == 0:
		return run.WaitingFor
	case s.Status != string(step.StepQueued):
	case s.Parked:
		return fmt.Sprintf("its turn: %d at once of the steps with the key %q", s.ConcurrencyMost, s.ConcurrencyKey)
	case tenant.MaxSteps > 0 && tenant.StepsRunning >= tenant.MaxSteps:
		return fmt.Sprintf("its turn: %d steps of the tenant at once (quota max_concurrent_steps)", tenant.MaxSteps)
	}
	return ""
}
