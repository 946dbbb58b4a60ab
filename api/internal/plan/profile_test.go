package plan

import (
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

// A step's own word comes first, then its profile, then its tool's manifest.
func TestProfile(t *testing.T) {
	t.Parallel()
	steps, err := compile(t, `[{"name":"a","tool":"test:echo","profile":"large","resources":{"pids":9}},{"name":"b","tool":"test:echo"}]`)
	if err != nil {
		t.Fatal(err)
	}
	if want := (step.Resources{CPU: 2, MemoryMB: 2048, Pids: 9, OutputKB: 51200}); steps[0].Resources != want {
		t.Errorf("%+v, want %+v", steps[0].Resources, want)
	}
	if want := (step.Resources{CPU: 1, MemoryMB: 128, Pids: 32, OutputKB: 4096}); steps[1].Resources != want {
		t.Errorf("%+v, want %+v", steps[1].Resources, want)
	}
}
