package pluginhost

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
)

// What a plugin starts first must not be outside the group that it is put into
// a moment later.
func TestNothingRunsBeforeItsPlace(t *testing.T) {
	t.Parallel()
	mark := filepath.Join(t.TempDir(), "mark")
	early, placed := make(chan bool, 100), 0
	r := start(t, []string{"memory"}, func(c *Config) {
		plugin := filepath.Join(c.Dir, prefix+"early")
		if err := os.WriteFile(plugin, []byte("#!/bin/sh\necho >>"+mark+"\nexit 3\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		c.Configs["early"] = nil
		c.QuarantineAfter = 1
		c.Place = func(name string, _ int) error {
			if name == "early" {
				<-time.After(200 * time.Millisecond)
				ran, _ := os.ReadFile(mark)
				early <- len(ran) > placed // a byte for each that was placed before
				placed++
			}
			return nil
		}
	})
	r.echo(t, "memory")
	r.infoOf(t, "early", "quarantined", func(i wire.DriverInfo) bool { return !i.Healthy && i.Message != "" && len(early) > 1 })
	if <-early {
		t.Error("the plugin ran before it was placed")
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("it did not run: %v", err)
	}
}
