package pluginhost

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func TestConfiguration(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory", "envy"}, func(c *Config) {
		c.Configs = map[string]json.RawMessage{"memory": json.RawMessage(`{"message":"configured"}`), "envy": json.RawMessage(`{"mesage":"a typing error"}`)}
	})
	r.infoOf(t, "memory", "configured", func(i wire.DriverInfo) bool { return i.Healthy && i.Message == "configured" })
	r.infoOf(t, "envy", "refused", func(i wire.DriverInfo) bool {
		return !i.Healthy && strings.Contains(i.Message, "configuration") && strings.Contains(i.Message, "mesage")
	})
	if err := syscall.Kill(r.pid(t, "memory"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.infoOf(t, "memory", "down", func(i wire.DriverInfo) bool { return !i.Healthy })
	r.infoOf(t, "memory", "configured again", func(i wire.DriverInfo) bool { return i.Healthy && i.Message == "configured" })
}

// What is installed is not yet wanted.
func TestNotConfigured(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory", "crash"}, func(c *Config) { delete(c.Configs, "crash") })
	r.echo(t, "memory")
	i := r.infoOf(t, "crash", "listed", func(wire.DriverInfo) bool { return true })
	if i.Healthy || !strings.HasPrefix(i.Message, "not configured") {
		t.Errorf("info %+v", i)
	}
	if _, err := r.Driver("crash"); !step.Is(err, step.KindNotFound) {
		t.Errorf("a driver that is not configured: %v", err)
	}
	if strings.Contains(r.log.String(), "I cannot live like this") {
		t.Error("it was started")
	}
}

// A driver may know only with its configuration what there is to warn of.
func TestWarningsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"warning"})
	r.infoOf(t, "warning", "warned of", func(i wire.DriverInfo) bool {
		return i.Healthy && i.Message == "this configuration is for development"
	})
	const logged = `"msg":"the driver warns","driver":"warning","warning":"this configuration is for development"`
	r.log.until(t, logged)
	// A process that takes its place says nothing new.
	if err := syscall.Kill(r.pid(t, "warning"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.infoOf(t, "warning", "down", func(i wire.DriverInfo) bool { return !i.Healthy })
	r.infoOf(t, "warning", "up again", healthy)
	if n := strings.Count(r.log.String(), logged); n != 1 {
		t.Errorf("the log has the warning %d times", n)
	}
}
