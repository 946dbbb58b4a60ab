package suite

import (
	"strings"

	"github.com/nofx-run/nofx/sdk/driver"
)

func isolationCases() []testCase {
	return []testCase{
		{"IsolationNamespace", func(t T, fx *fixture) {
			fx.need(t, driver.CapIsolationNamespace, nil) // the refusal is in RefusesWhatItCannot
			h := fx.create(t, func(s *driver.Spec) { s.Isolation = driver.IsolationNamespace })
			r := fx.run(t, h, fx.exec(fx.Programs.Read("/proc/self/status")))
			for name, want := range map[string]string{"Seccomp": "2", "NoNewPrivs": "1", "CapEff": "0000000000000000"} {
				if got := field(string(r.stdout), name); got != want {
					t.Errorf("a program's %s is %q, want %q (exit %+v, %.200q)", name, got, want, *r.exit, r.stderr)
				}
			}
		}},
		{"IsolationGVisor", func(t T, fx *fixture) {
			fx.need(t, driver.CapIsolationGVisor, nil)
			h := fx.create(t, func(s *driver.Spec) { s.Isolation = driver.IsolationGVisor })
			r := fx.run(t, h, fx.exec(fx.Programs.Read("/proc/version")))
			if !strings.Contains(strings.ToLower(string(r.stdout)), "gvisor") {
				t.Errorf("its kernel says that it is %q (exit %+v, %.200q)", r.stdout, *r.exit, r.stderr)
			}
		}},
	}
}

// field is the value of a line "NAME: VALUE".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
