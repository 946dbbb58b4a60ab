package local

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/nofx-run/nofx/internal/testhost"
)

func random() string { return testhost.Random() }

func newHost() *testhost.Host { return testhost.New() }

// config is a configuration with a state folder of the test's own.
func config(t testing.TB, change ...func(*Config)) json.RawMessage {
	t.Helper()
	c := Config{StateDir: filepath.Join(t.TempDir(), "state"), Supervisor: supervisorPath, TmpMB: 64, ShmMB: 16, MaxOutputMB: 512, RootFS: RootHost}
	for _, f := range change {
		f(&c)
	}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func withGVisor(c *Config) { c.Runsc = runscPath }
