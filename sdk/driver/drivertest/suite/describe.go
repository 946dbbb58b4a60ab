package suite

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/configschema"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/step"
)

// maxVersion is what a daemon shows of a version, in bytes.
const maxVersion = 100

func describeCases() []testCase {
	return []testCase{
		{"Describe", func(t T, fx *fixture) {
			d := fx.desc
			if d.Name == "" || d.Version == "" {
				t.Errorf("name %q, version %q: both are needed", d.Name, d.Version)
			}
			if len(d.Version) > maxVersion || strings.IndexFunc(d.Version, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
				t.Errorf("version %.150q: at most %d printable bytes are shown", d.Version, maxVersion)
			}
			if !slices.ContainsFunc(d.ProtocolVersions, func(v int) bool { return slices.Contains(driverrpc.Versions(), v) }) {
				t.Errorf("protocol versions %v have none of %v", d.ProtocolVersions, driverrpc.Versions())
			}
			known := Capabilities()
			for _, c := range d.Capabilities {
				if !known.Has(c) {
					t.Errorf("capability %q is not known", c)
				}
			}
			again, err := fx.d.Describe(fx.ctx(t))
			if err != nil || again.Name != d.Name || !slices.Equal(again.Capabilities, d.Capabilities) {
				t.Errorf("a second Describe differs: %+v, %v", again, err)
			}
		}},
		{"ConfigSchema", func(t T, fx *fixture) {
			schema, err := configschema.Parse(fx.desc.ConfigSchema)
			if err != nil {
				t.Fatalf("the schema of the configuration: %v", err)
			}
			if err := schema.Check(fx.Config); err != nil {
				t.Errorf("the factory's configuration does not fit the schema: %v", err)
			}
			if err := schema.Check([]byte(`{"no-such-field-at-all": true}`)); err == nil {
				t.Error("the schema lets unknown fields pass: a typing error would be ignored")
			}
		}},
		{"ConfigureAgain", func(t T, fx *fixture) {
			fx.need(t, driver.CapMultiExec, nil)
			h := fx.create(t)
			if err := fx.d.Configure(fx.ctx(t), fx.Config); err != nil {
				t.Fatalf("configure with a sandbox there: %v", err)
			}
			if r := fx.run(t, h, fx.exec(fx.Programs.Exit(3))); r.exit.Code != 3 {
				t.Errorf("exit after a second Configure: %+v", r.exit)
			}
		}},
		{"Health", func(t T, fx *fixture) {
			ctx, cancel := context.WithCancel(fx.ctx(t))
			defer cancel()
			started := time.Now()
			var first driver.Health
			n := 0
			err := fx.d.Health(ctx, func(h driver.Health) error {
				if n++; n == 1 {
					first = h
					cancel()
				}
				return nil
			})
			wantCancelled(t, "health", err)
			if n == 0 || time.Since(started) > time.Duration(fx.Patience*float64(3*time.Second)) {
				t.Errorf("health came %d times, after %v; once at once is wanted", n, time.Since(started))
			}
			if !first.Healthy {
				t.Errorf("the driver is not healthy: %s", first.Message)
			}
		}},
		{"HealthGoesOn", func(t T, fx *fixture) {
			// The contract's 10 s, and something for a busy machine: the daemon
			// kills a driver that is silent for 35 s.
			within := 10*time.Second + time.Duration(fx.Patience*float64(3*time.Second))
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			n := 0
			err := fx.d.Health(ctx, func(driver.Health) error {
				if n++; n == 2 {
					cancel()
				}
				return nil
			})
			if n < 2 {
				t.Errorf("health came %d times within %v (%v); at least every 10 s is wanted", n, within, err)
			}
		}},
		{"Metrics", func(t T, fx *fixture) {
			m, ok := fx.d.(driver.Metered)
			if !ok {
				return // it counts nothing
			}
			ctx, cancel := context.WithTimeout(fx.ctx(t), time.Duration(fx.Patience*float64(3*time.Second)))
			defer cancel()
			samples, err := m.Metrics(ctx)
			if step.Is(err, step.KindUnsupported) {
				return
			}
			if err == nil {
				err = driver.CheckSamples(fx.desc.Name, samples)
			}
			if err != nil {
				t.Errorf("metrics: %v", err)
			}
		}},
		{"RefusesWhatItCannot", refusesWhatItCannot},
	}
}

// refusesWhatItCannot asks for everything that the driver does not declare.
func refusesWhatItCannot(t T, fx *fixture) {
	for _, ask := range []struct {
		cap driver.Capability
		f   func(*driver.Spec)
	}{
		{driver.CapCPU, func(s *driver.Spec) { s.Resources.CPU = 1 }},
		{driver.CapMemory, func(s *driver.Spec) { s.Resources.MemoryMB = 64 }},
		{driver.CapPids, func(s *driver.Spec) { s.Resources.Pids = 16 }},
		{driver.CapDisk, func(s *driver.Spec) { s.Resources.DiskMB = 64 }},
		{driver.CapBlockIO, func(s *driver.Spec) { s.Resources.IOMBs = 64 }},
		{driver.CapOutput, func(s *driver.Spec) { s.Resources.OutputKB = 64 }},
		{driver.CapNetNone, func(s *driver.Spec) { s.Network = step.NetworkNone }},
		{driver.CapNetAllow, func(s *driver.Spec) { s.Network, s.Egress.Allow = step.NetworkAllow, []string{"example.com"} }},
		{driver.CapNetOpen, func(s *driver.Spec) { s.Network = step.NetworkOpen }},
		{driver.CapIsolationNamespace, func(s *driver.Spec) { s.Isolation = driver.IsolationNamespace }},
		{driver.CapIsolationGVisor, func(s *driver.Spec) { s.Isolation = driver.IsolationGVisor }},
		{driver.CapNetGVisor, func(s *driver.Spec) { s.Isolation, s.Network = driver.IsolationGVisor, step.NetworkOpen }},
		{driver.CapLease, func(s *driver.Spec) { s.Until = driver.After(time.Hour) }},
		{driver.CapHost, func(s *driver.Spec) { s.Host = &driver.HostSpec{UIDBase: 100000, UIDCount: 2} }},
	} {
		if fx.desc.Capabilities.Has(ask.cap) {
			continue
		}
		h, err := fx.d.Create(fx.ctx(t), fx.spec(t, ask.f))
		wantKind(t, "create that needs "+string(ask.cap), err, step.KindUnsupported)
		if err == nil {
			fx.destroy(t, h)
		}
	}
	for what, f := range map[string]func(*driver.Spec){
		"network":   func(s *driver.Spec) { s.Network = "no-such-network" },
		"isolation": func(s *driver.Spec) { s.Isolation = "no-such-isolation" },
	} {
		h, err := fx.d.Create(fx.ctx(t), fx.spec(t, f))
		wantKind(t, "create with an unknown "+what, err, step.KindUnsupported, step.KindInvalid)
		if err == nil {
			fx.destroy(t, h)
		}
	}
	if all, err := fx.d.List(fx.ctx(t), fx.owner); err != nil || len(all) != 0 {
		t.Errorf("the refused creates left %d sandboxes behind (%v)", len(all), err)
	}
	h := fx.create(t)
	for _, ask := range []struct {
		cap driver.Capability
		f   func(*driver.ExecSpec)
	}{
		{driver.CapTTY, func(s *driver.ExecSpec) { s.TTY = &driver.TTY{Cols: 80, Rows: 24} }},
		{driver.CapWallTime, func(s *driver.ExecSpec) { s.Timeout = time.Hour }},
		{driver.CapOutput, func(s *driver.ExecSpec) { s.OutputLimit = 1 << 20 }},
	} {
		if !fx.desc.Capabilities.Has(ask.cap) {
			err := fx.d.Exec(fx.ctx(t), h, fx.exec(fx.Programs.Exit(0), ask.f), ignore)
			wantKind(t, "exec that needs "+string(ask.cap), err, step.KindUnsupported)
		}
	}
	err := fx.d.Exec(fx.ctx(t), h, fx.exec(fx.Programs.Exit(0), func(s *driver.ExecSpec) { s.User = "no-such-user" }), ignore)
	wantKind(t, "exec of an unknown user", err, step.KindUnsupported, step.KindInvalid)
	if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || len(st.Execs) != 0 {
		t.Errorf("the refused execs left %+v behind (%v)", st, err)
	}
}

// ignore is a sink that takes everything.
func ignore(driver.ExecEvent) error { return nil }
