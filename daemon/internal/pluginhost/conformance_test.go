package pluginhost

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
)

// The suite through a plugin of its own process, the host's proxy and mutual
// TLS: what the daemon talks to keeps every promise.
func TestConformanceThroughAPlugin(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory"})
	d, err := r.Driver("memory")
	if err != nil {
		t.Fatal(err)
	}
	drivertest.Exercise(t, drivertest.Factory{
		Programs: drivertest.InMemory(),
		Network:  drivertest.InMemoryNetwork,
		Open: func(*testing.T) drivertest.Instance {
			return drivertest.Instance{Driver: configured{d}}
		},
	})
}

// configured is a proxy whose driver the host has configured already. It does
// not claim to survive its process: the in-memory driver does not.
type configured struct{ driver.Driver }

func (configured) Configure(context.Context, json.RawMessage) error { return nil }

func (c configured) Describe(ctx context.Context) (driver.Description, error) {
	d, err := c.Driver.Describe(ctx)
	kept := d.Capabilities[:0]
	for _, c := range d.Capabilities {
		if c != driver.CapReattach {
			kept = append(kept, c)
		}
	}
	d.Capabilities = kept
	return d, err
}

// Somebody who starts a plugin by hand gets a word of explanation.
func TestPluginStartedByHand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	install(t, dir, "memory", nil)
	out, err := exec.CommandContext(t.Context(), filepath.Join(dir, prefix+"memory")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "This binary is a plugin") {
		t.Errorf("it says %q and ends with %v", out, err)
	}
}
