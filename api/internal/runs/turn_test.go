package runs

import (
	"testing"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A run that is held says for what, and names no bound that is not there.
func TestHeld(t *testing.T) {
	t.Parallel()
	for want, row := range map[string]pgdb.GetRunRow{
		"": {},
		"its turn: 3 at once of the runs with the key \"k\"": {Hold: "turn", ConcurrencyKey: "k", ConcurrencyMost: 3},
		"its turn": {Hold: "turn"}, // its time has come, and nobody has let it go yet
	} {
		var out wire.RunSummary
		if held(&out, row, pgdb.TenantTurnRow{}); out.WaitingFor != want {
			t.Errorf("%q, want %q", out.WaitingFor, want)
		}
	}
	var out wire.RunSummary
	if held(&out, pgdb.GetRunRow{Hold: "turn"}, pgdb.TenantTurnRow{MaxRuns: 2}); out.WaitingFor != "its turn: 2 runs of the tenant at once (quota max_concurrent_runs)" {
		t.Errorf("%q", out.WaitingFor)
	}
}
