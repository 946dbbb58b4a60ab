package fleet_test

import (
	"context"
	"encoding/json"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, fleet.Abandoned()...) }

// Every part of a fleet can be broken and mended, and a run ends in between;
// nothing is left on the machine.
func TestFleet(t *testing.T) {
	f, err := fleet.Start(t.Context(), fleet.Config{
		Dir: fleet.Dir(t), Bin: fleet.Binaries(t), APIs: 2,
		Hosts: []fleet.Host{{}, {DiskMB: 64, Clock: 24 * time.Hour}}, Tenants: []string{"acme", "umbrella"},
		Lease: 5 * time.Second, Heartbeat: time.Second, Note: func(name, what string) { t.Log(name, what) },
	})
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	works := func(what string) {
		t.Helper()
		for api, tenant := range []string{"acme", "umbrella"} {
			c, err := f.Dial(api, tenant)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			run, err := c.Submit(ctx, wire.SubmitRun{Plan: wire.Plan{Goal: what, Steps: []wire.PlanStep{
				{Name: "a", Tool: "bash", Inputs: json.RawMessage(`{"command":"cat /proc/uptime"}`), Network: step.NetworkNone},
			}}}, "")
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for {
				d, err := c.Run(ctx, run.ID)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if d.Run.Status.Terminal() {
					if d.Run.Status != step.RunSucceeded {
						t.Errorf("%s: %+v", what, d)
					}
					break
				}
			}
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	works("at first")
	if len(f.Postgres.Backends()) == 0 {
		t.Error("no backend serves the APIs")
	}

	check(f.Postgres.Down(ctx, syscall.SIGQUIT))
	check(f.APIs[0].Down(ctx, syscall.SIGKILL))
	check(f.Daemons[0].Down(ctx, syscall.SIGKILL))
	f.Postgres.Up()
	f.APIs[0].Up()
	f.Daemons[0].Up()
	for _, p := range []*fleet.Process{f.Postgres.Process, f.APIs[0].Process, f.APIs[1].Process, f.Daemons[0].Process} {
		check(p.Ready(ctx))
	}
	works("after kills")

	for _, l := range []*fleet.Link{f.APIs[1].Client, f.APIs[1].DB, f.Daemons[1].API} {
		check(l.Drop(fleet.Back))
		check(l.Heal())
		check(l.Starve(1))
		check(l.Delay(time.Millisecond, 0))
		check(l.Heal())
		l.Cut()
		check(l.Heal())
	}
	check(f.Turn(1, 0))
	check(f.Daemons[1].Fill())
	check(f.Daemons[1].Free())
	for _, p := range []*fleet.Process{f.APIs[1].Process, f.Daemons[1].Process} {
		check(p.Ready(ctx))
	}
	works("after links and a full disk")

	for _, d := range f.Daemons {
		if d.Plugin() == 0 {
			t.Errorf("%s: no plugin", d.Name)
		}
		if _, err := d.Sweep(ctx); err != nil {
			t.Error(err)
		}
	}
}
