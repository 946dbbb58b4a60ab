package plan

import (
	"errors"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestCeiling(t *testing.T) {
	t.Parallel()
	const plan = `[{"name":"a","tool":"test:echo","resources":{"cpu":8,"memory_mb":64},"timeout":5000},{"name":"b","tool":"test:echo"}]`
	ce := Ceiling{Network: step.NetworkOpen, Resources: step.Resources{CPU: 4, MemoryMB: 100, DiskMB: 512}, TimeoutMS: 20000}
	steps, err := compile(t, plan)
	if err != nil {
		t.Fatal(err)
	}
	err = ce.Apply(steps)
	var fault *step.Error
	if !errors.As(err, &fault) || fault.Kind != step.KindForbidden || len(fault.Fields) != 3 {
		t.Fatalf("%v", err)
	}
	for i, want := range []string{"steps[0].resources.cpu", "steps[1].resources.memory_mb", "steps[1].timeout"} {
		if !strings.HasSuffix(fault.Fields[i].Location, want) {
			t.Errorf("%+v, want %s", fault.Fields[i], want)
		}
	}
	if m := fault.Fields[0].Message; !strings.Contains(m, "8") || !strings.Contains(m, "4") {
		t.Errorf("not both numbers: %s", m)
	}

	if steps, err = compile(t, plan); err != nil {
		t.Fatal(err)
	}
	ce.Clip = true
	if err := ce.Apply(steps); err != nil {
		t.Fatal(err)
	}
	a, b := steps[0], steps[1]
	if a.Resources.CPU != 4 || a.Resources.MemoryMB != 64 || a.Resources.DiskMB != 512 || a.TimeoutMS != 5000 || a.Resources.Pids != 32 {
		t.Errorf("%+v", a)
	}
	if b.Resources.CPU != 1 || b.Resources.MemoryMB != 100 || b.TimeoutMS != 20000 {
		t.Errorf("%+v", b)
	}

	// No ceiling changes nothing.
	if steps, err = compile(t, plan); err != nil {
		t.Fatal(err)
	}
	if err := (Ceiling{Network: step.NetworkOpen}).Apply(steps); err != nil || steps[0].Resources.CPU != 8 || steps[0].Resources.DiskMB != 0 {
		t.Errorf("%v, %+v", err, steps[0])
	}
}
