package api_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nofx-run/nofx/sdk/wire"
)

// Of many entries one that is refused stays as it is, whatever becomes of the
// others: here its inputs, of a version that sealed nothing, cannot be kept.
func TestRefusedAmongMany(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host", offering("local", able...), offering("container", able...))
	sensitive := r.die(w, fmt.Sprintf(withEnv, "canary"))
	plain := r.die(w, failing)
	r.sql(`UPDATE nofx.step SET sealed = NULL, inputs = '{"command":"false","env":{"TOKEN":"canary"}}' WHERE run_id = $1`, sensitive.ID)
	r.cfg.KeysetFile = ""
	r.bounce()
	r.user = r.again("acme user")
	entries := r.dead(wire.DeadFilter{})
	of := func(run string) wire.DeadStep {
		return entries[slices.IndexFunc(entries, func(e wire.DeadStep) bool { return e.RunID == run })]
	}
	for _, dry := range []bool{true, false} {
		got, err := r.user.RequeueMany(t.Context(), wire.ResolveMany{Match: &wire.DeadFilter{}, Driver: "container", DryRun: dry}, "")
		if err != nil || !slices.Equal(got.Done, []string{of(plain.ID).ID}) || len(got.Refused) != 1 || got.Refused[0].ID != of(sensitive.ID).ID {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if got := statuses(r.run(sensitive.ID)); got != "failed a=failed/1" {
		t.Errorf("what was refused is %s", got)
	}
	if entries = r.dead(wire.DeadFilter{State: "all"}); of(sensitive.ID).State != wire.DeadOpen || of(plain.ID).State != wire.DeadRequeued {
		t.Errorf("%+v", entries)
	}
}
