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
	if !errors.As(err, &fault) || fault.Kind != step.KindForbidden || len(fault.Fields) != 1 || !strings.HasSuffix(fault.Fields[0].Location, "steps[0].resources.cpu") {
		t.Fatalf("%v", err)
	}
	if m := fault.Fields[0].Message; !strings.Contains(m, "8") || !strings.Contains(m, "4") {
		t.Errorf("not both numbers: %s", m)
	}

	// A profile that a step names is a request, and so is a timeout in its inputs;
	// what its tool has by default is lowered.
	low := Ceiling{Network: step.NetworkOpen, Resources: step.Resources{CPU: 0.5, MemoryMB: 64, Pids: 8, DiskMB: 512, IOMBs: 5, OutputKB: 10}, TimeoutMS: 1000}
	for plan, want := range map[string]string{
		`[{"name":"a","tool":"test:echo"}]`:                                                              "",
		`[{"name":"a","tool":"test:echo","resources":{"cpu":0.5,"pids":4},"timeout":1000}]`:              "",
		`[{"name":"a","tool":"test:echo","profile":"large"}]`:                                            "steps[0].resources.cpu: asks for 2, more than the 0.5",
		`[{"name":"a","tool":"test:echo","timeout":1001}]`:                                               "steps[0].timeout: asks for 1001, more than the 1000",
		`[{"name":"a","tool":"test:echo","resources":{"memory_mb":65}}]`:                                 "steps[0].resources.memory_mb: asks for 65, more than the 64",
		`[{"name":"a","tool":"test:echo","resources":{"disk_mb":1024}},{"name":"b","tool":"test:echo"}]`: "steps[0].resources.disk_mb: asks for 1024, more than the 512",
	} {
		steps, err := compile(t, plan)
		if err != nil {
			t.Fatal(plan, err)
		}
		err = low.Apply(steps)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", plan, err, want)
			}
			continue
		}
		if r := steps[0].Resources; err != nil || r.CPU != 0.5 || r.MemoryMB != 64 || r.Pids > 8 || r.DiskMB != 512 || r.IOMBs != 5 || r.OutputKB != 10 || steps[0].TimeoutMS != 1000 {
			t.Errorf("%s: %+v, %v", plan, steps[0], err)
		}
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
