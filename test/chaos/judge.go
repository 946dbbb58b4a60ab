package chaos

import (
	"fmt"
	"slices"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/invariant"
)

// judge looks at what package invariant cannot know: whether verdicts are true.
// told are the stories by run, tight the workers whose disk was full at times.
func judge(t invariant.Tables, told map[string]Story, tight map[string]bool) []string {
	names := map[string]string{}
	for _, s := range t.Steps {
		names[s.ID] = s.Name
	}
	workers := map[string]string{}
	for _, w := range t.Workers {
		workers[w.ID] = w.Name
	}
	var wrong []string
	for _, a := range t.Attempts {
		s, known := told[a.RunID]
		if !known || a.Verdict == nil {
			continue // its client never heard of it, or it was given back
		}
		v, name := *a.Verdict, names[a.StepID]
		want := s.Steps[name].Verdicts
		switch {
		case v.Cause.Infrastructure(), slices.Contains(want, v.String()):
		case v.Cause == step.CauseCancelled && s.Cancel > 0:
		case v.Cause == step.CauseExit && *v.ExitCode == noSpace && tight[workers[a.WorkerID]]:
		case v.Cause == step.CauseExit && *v.ExitCode == missing:
			wrong = append(wrong, fmt.Sprintf("attempt %s (%s of run %s): what an earlier step left in the workspace is gone", a.ID, name, a.RunID))
		default:
			wrong = append(wrong, fmt.Sprintf("attempt %s (%s of run %s) on %s: the verdict is %s, %q; its program does %v", a.ID, name, a.RunID, workers[a.WorkerID], v, v.Message, want))
		}
	}
	return wrong
}
