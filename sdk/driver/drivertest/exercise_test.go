package drivertest_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/brokendriver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
)

// defectEnv makes TestWithDefect run the suite on a driver with that defect.
const defectEnv = "NOFX_DRIVERTEST_DEFECT"

func TestMain(m *testing.M) {
	if os.Getenv(defectEnv) != "" {
		os.Exit(m.Run()) // a suite that fails need not end tidily
	}
	goleak.VerifyTestMain(m)
}

// TestWithDefect is the suite on a defective driver. TestSuiteFindsDefects runs
// it, in processes of its own.
func TestWithDefect(t *testing.T) {
	t.Parallel()
	defect := os.Getenv(defectEnv)
	if defect == "" {
		return
	}
	var caps driver.Capabilities
	if defect == "ignores-what-it-cannot" {
		caps = driver.Capabilities{}
	}
	patience := 0.2 // most cases are to fail, many by waiting in vain
	if defect == "none" {
		patience = 1
	}
	drivertest.Exercise(t, drivertest.Factory{
		Programs: drivertest.InMemory(),
		Network:  drivertest.InMemoryNetwork,
		Patience: patience,
		Open: func(t *testing.T) drivertest.Instance {
			w := memdriver.NewWorld()
			t.Cleanup(w.Close)
			open := func() driver.Driver {
				return brokendriver.New(memdriver.New(w, memdriver.Options{Capabilities: caps}), defect, "")
			}
			client, stop := drivertest.Serve(t, open())
			t.Cleanup(func() { stop() })
			return drivertest.Instance{Driver: client, Restart: func(t *testing.T) driver.Driver {
				stop()
				if defect == "forgets-at-restart" {
					w = memdriver.NewWorld()
				}
				client, stop = drivertest.Serve(t, open())
				return client
			}}
		},
	})
}

// ofAProcess are defects that a driver inside this process cannot have, and
// ofAPlugin cases that need a plugin's connection; `nofx driver-sanity` is
// tested on those.
var (
	ofAProcess = map[string]bool{
		"destroy-needs-memory": true, "dies-in-create": true, "does-not-end": true, "extends-by-itself": true, "half-made": true, "lease-needs-it": true,
		"leaks-descriptors": true, "leaves-processes": true, "runs-by-hand": true, "panics": true, "accepts-any-configuration": true,
	}
	ofAPlugin = map[string]bool{"RefusesHugeMessages": true}
)

// A suite is worth what it finds: each defect must turn its case red, and the
// same case must be green without it.
func TestSuiteFindsDefects(t *testing.T) {
	t.Parallel()
	for defect, cases := range brokendriver.Defects() {
		if ofAProcess[defect] {
			continue
		}
		t.Run(defect, func(t *testing.T) {
			t.Parallel()
			name := strings.Join(cases, "|")
			out, err := runSuite(t, defect, name)
			for _, c := range cases {
				if !ofAPlugin[c] && (err == nil || !strings.Contains(out, "--- FAIL: TestWithDefect/"+c+" ")) {
					t.Errorf("case %s does not notice it:\n%s", c, out)
				}
			}
			if strings.Contains(out, "panic:") {
				t.Errorf("case %s panics:\n%s", name, out)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		if out, err := runSuite(t, "none", ".*"); err != nil {
			t.Errorf("the suite finds defects where there are none: %v\n%s", err, out)
		}
	})
}

// runSuite runs one case of the suite in a process of its own.
func runSuite(t *testing.T, defect, name string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.v", "-test.parallel=8", "-test.timeout=2m", "-test.run=^TestWithDefect$/^("+name+")$")
	cmd.Env = append(os.Environ(), defectEnv+"="+defect)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
