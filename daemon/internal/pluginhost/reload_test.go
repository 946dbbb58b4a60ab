package pluginhost

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func saying(message string) json.RawMessage {
	return json.RawMessage(`{"message":"` + message + `"}`)
}

func says(message string) func(wire.DriverInfo) bool {
	return func(i wire.DriverInfo) bool { return i.Healthy && i.Message == message }
}

func TestReload(t *testing.T) {
	t.Parallel()
	seen := &watcher{}
	r := start(t, []string{"memory", "picky", "sick"}, func(c *Config) {
		c.Observer = seen
		c.Configs = map[string]json.RawMessage{"memory": saying("one"), "picky": saying("one")}
	})
	r.infoOf(t, "memory", "configured", says("one"))
	r.infoOf(t, "picky", "configured", says("one"))
	memory, picky := r.pid(t, "memory"), r.pid(t, "picky")

	// A good one, one that the schema refuses, one that the driver refuses.
	if err := r.Reload(bg(t), map[string]json.RawMessage{"memory": saying("two"), "picky": saying("one")}, nil); err != nil {
		t.Fatal(err)
	}
	r.infoOf(t, "memory", "configured anew", says("two"))
	var took []string
	err := r.Reload(bg(t), map[string]json.RawMessage{"memory": json.RawMessage(`{"mesage":"x"}`), "picky": saying("no"), "absent": nil},
		func(name string) { took = append(took, name) })
	for _, want := range []string{"drivers.memory: ", "mesage", "drivers.picky: ", "message: I do not take no"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to name %q", err, want)
		}
	}
	if !cmp.Equal(took, []string{"absent"}) {
		t.Errorf("it says that it took the configurations of %v", took)
	}
	for name, said := range map[string][2]string{"memory": {"mesage", "two"}, "picky": {"message: I do not take no", "one"}} {
		r.infoOf(t, name, "as before, and to say so", func(i wire.DriverInfo) bool {
			return i.Healthy && strings.HasPrefix(i.Message, "its new configuration is not used: ") && strings.Contains(i.Message, said[0]) && strings.HasSuffix(i.Message, "; "+said[1])
		})
	}
	if r.pid(t, "memory") != memory || r.pid(t, "picky") != picky {
		t.Error("a process was replaced")
	}

	// One goes, one comes, one has no plugin.
	took = nil
	if err := r.Reload(bg(t), map[string]json.RawMessage{"memory": saying("two"), "sick": nil, "absent": nil}, func(name string) {
		if took = append(took, name); name == "sick" {
			if _, err := r.Driver(name); !step.Is(err, step.KindNotFound) {
				t.Errorf("a driver that is new is there before its configuration was taken: %v", err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	r.infoOf(t, "memory", "in order again", says("two"))
	if slices.Sort(took); !cmp.Equal(took, []string{"absent", "memory", "sick"}) {
		t.Errorf("it says that it took the configurations of %v", took)
	}
	gone(t, picky)
	r.infoOf(t, "picky", "not configured", func(i wire.DriverInfo) bool { return strings.HasPrefix(i.Message, "not configured") })
	r.infoOf(t, "sick", "started", func(i wire.DriverInfo) bool { return i.Message == "I do not feel well" })
	r.infoOf(t, "absent", "told of", func(i wire.DriverInfo) bool { return strings.Contains(i.Message, "there is no plugin") })
	if _, err := r.Driver("picky"); !step.Is(err, step.KindNotFound) {
		t.Errorf("a driver that was removed: %v", err)
	}
	if _, _, state := seen.counts("picky"); state != [2]bool{} {
		t.Errorf("state of a driver that was removed: %v", state)
	}

	// And back; a plugin that was installed meanwhile is found.
	install(t, r.cfg.Dir, "absent", nil)
	if err := r.Reload(bg(t), map[string]json.RawMessage{"memory": saying("two"), "picky": saying("back"), "absent": saying("here")}, nil); err != nil {
		t.Fatal(err)
	}
	r.infoOf(t, "picky", "back", says("back"))
	r.infoOf(t, "absent", "here", says("here"))
	r.echo(t, "picky")
	r.echo(t, "absent")
	if r.pid(t, "memory") != memory {
		t.Error("memory was restarted")
	}
	r.stop()
	if err := r.Reload(bg(t), nil, nil); !step.Is(err, step.KindUnavailable) {
		t.Errorf("after the end: %v", err)
	}
}

// A plugin that is quarantined for its configuration gets the new one at once,
// and so does the process after the next death.
func TestReloadOfARefusedConfiguration(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory"}, func(c *Config) {
		c.Configs = map[string]json.RawMessage{"memory": json.RawMessage(`{"mesage":"x"}`)}
	})
	r.infoOf(t, "memory", "refused", func(i wire.DriverInfo) bool { return strings.HasPrefix(i.Message, "quarantined") })
	if err := r.Reload(bg(t), map[string]json.RawMessage{"memory": saying("better")}, nil); err != nil {
		t.Fatal(err)
	}
	r.infoOf(t, "memory", "configured", says("better"))
	install(t, r.cfg.Dir, "memory", []byte("new"))
	old := r.pid(t, "memory")
	if err := r.Reload(bg(t), map[string]json.RawMessage{"memory": saying("better")}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the plugin was replaced", func() bool { return r.pid(t, "memory") != old })
	r.infoOf(t, "memory", "configured", says("better"))
}

// A plugin that hangs in a new configuration is ended and started with the one
// that it had. It holds up neither another driver's configuration nor the next
// reload.
func TestReloadOfAPluginThatHangs(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory", "stuck"}, func(c *Config) {
		c.Timeouts.Start = 10 * time.Second
		c.Configs = map[string]json.RawMessage{"memory": saying("one"), "stuck": saying("one")}
	})
	r.infoOf(t, "memory", "configured", says("one"))
	r.infoOf(t, "stuck", "configured", says("one"))
	old := r.pid(t, "stuck")
	reloaded := make(chan error, 1)
	go func() {
		reloaded <- r.Reload(t.Context(), map[string]json.RawMessage{"memory": saying("two"), "stuck": saying("two")}, nil)
	}()
	r.infoOf(t, "memory", "configured anew", says("two"))
	select {
	case err := <-reloaded:
		t.Fatalf("it did not wait for the plugin that hangs: %v", err)
	default:
	}
	select {
	case err := <-reloaded:
		if err == nil || !strings.Contains(err.Error(), "drivers.stuck: ") || strings.Contains(err.Error(), "drivers.memory") {
			t.Errorf("got %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits for the plugin that hangs")
	}
	gone(t, old)
	r.infoOf(t, "stuck", "configured as before", func(i wire.DriverInfo) bool {
		return i.Healthy && strings.HasSuffix(i.Message, "; one") && r.pid(t, "stuck") != old
	})
}
