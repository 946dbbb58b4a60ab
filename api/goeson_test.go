package api_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nofx-run/nofx/sdk/step"
)

// A run whose steps need by turns what only one of two workers has: each step is
// done by one that can do it, in a workspace with all that those before it left,
// and the run stays where it is as long as it may. Something that is not saved
// ends it where it would have to move, and nowhere else.
func TestRunGoesWhereItCan(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	without := slices.DeleteFunc(slices.Clone(able), func(c string) bool { return c == "files" })
	workers := []*worker{r.worker("files", offering("local", able...)), r.worker("kernel", offering("local", append(without, "isolation.gvisor")...))}
	needs := []string{ // of the first worker, of the second, of neither
		`"tool":"exec","inputs":{"argv":["cat","x"],"files":[{"path":"x","content":"y"}]}`, `"tool":"test:echo","isolation":"gvisor"`, `"tool":"test:echo"`,
	}
	rapid.Check(t, func(t *rapid.T) {
		kinds := rapid.SliceOfN(rapid.IntRange(0, 2), 2, 5).Draw(t, "what each step needs")
		plan := make([]string, len(kinds))
		for i, kind := range kinds {
			plan[i] = fmt.Sprintf(`{"name":"s%d",%s`, i, needs[kind])
			if i > 0 {
				plan[i] += fmt.Sprintf(`,"depends_on":["s%d"]`, i-1)
			}
			plan[i] += "}"
		}
		run := r.submit("[" + strings.Join(plan, ",") + "]")
		here := rapid.IntRange(0, 1).Draw(t, "who asks first")
		moves, layers, saved := 0, 0, true
		for i, kind := range kinds {
			goes := kind == 1-here
			if goes && i > 0 && !saved {
				for _, w := range []*worker{workers[here], workers[1-here]} {
					if got := w.claim(4, 0); len(got) != 0 {
						t.Fatalf("step %d of what is not saved: %+v", i, got)
					}
				}
				d := r.run(run.ID)
				if v := d.Steps[i].Verdict; d.Run.Status != step.RunFailed || v == nil || !strings.Contains(v.Message, "not all that is in it is saved") {
					t.Fatalf("step %d: %+v", i, d)
				}
				return
			}
			if goes {
				if got := workers[here].claim(4, 0); len(got) != 0 {
					t.Fatalf("step %d, which it cannot do: %+v", i, got)
				}
				if here = 1 - here; i > 0 {
					moves++
				}
			}
			if i > 0 {
				if got := workers[1-here].claim(4, 0); len(got) != 0 {
					t.Fatalf("step %d, whose workspace is elsewhere: %+v", i, got)
				}
			}
			got := workers[here].claim(4, 0)
			if len(got) != 1 || got[0].StepName != fmt.Sprint("s", i) || got[0].Attempt != 1 {
				t.Fatalf("step %d: %+v", i, got)
			}
			l := got[0]
			if l.WorkspaceNo != moves+1 || l.LastLayer != layers || (len(l.Layers) > 0) != (saved && layers > 0) {
				t.Fatalf("step %d after %d moves and %d layers, all saved: %v: %+v", i, moves, layers, saved, l)
			}
			end := exit(0)
			if saved = rapid.Bool().Draw(t, "it is saved"); saved && l.Snapshot {
				layers++
				end = workers[here].save(l, layers, true, fmt.Sprint(run.ID, i))
			}
			workers[here].finish(l, end)
		}
		if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
			t.Fatalf("%+v", d)
		}
		moved := 0
		for _, e := range r.types(run.ID) {
			if strings.Contains(string(e), string(step.EventRunMoved)) {
				moved++
			}
		}
		if moved != moves {
			t.Fatalf("it moved %d times, want %d", moved, moves)
		}
	})
}
