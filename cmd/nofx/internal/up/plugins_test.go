package up

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A plugin of somebody else's runs beside ours, with a configuration of its own.
func TestPlugins(t *testing.T) {
	t.Parallel()
	plugin := filepath.Join(t.TempDir(), "nofx-driver-mine")
	if err := os.WriteFile(plugin, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &System{cfg: Config{Dir: t.TempDir(), Plugins: []string{plugin}, Resolvers: []string{"9.9.9.9:53"}}}
	all := s.drivers()
	if c, ok := all["mine"]; !ok || len(c) != 0 || all["local"]["resolvers"] == nil {
		t.Errorf("drivers: %v", all)
	}
	s.cfg.BinDir = t.TempDir()
	for _, name := range []string{"nofx-driver-local", "nofx-driver-mine", "nofx-supervisor", "nofx-egress"} {
		if err := os.WriteFile(filepath.Join(s.cfg.BinDir, name), []byte("of the build"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.installPlugins(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"nofx-driver-local": "of the build", "nofx-driver-mine": ""} {
		if got, err := os.ReadFile(filepath.Join(s.cfg.Dir, "plugins", name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	list := wire.WorkerList{Workers: []wire.WorkerInfo{{Name: "w", Incarnation: "2", Status: "live", Drivers: []wire.DriverInfo{
		{Name: "local", Healthy: true}, {Name: "mine", Message: "unwell"},
	}}}}
	for name, want := range map[string]string{"local": "", "mine": "unwell", "other": "no live worker"} {
		if err := there(list, "w", "1", name); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := checkPlugin(plugin); err != nil {
		t.Error(err)
	}
	for what, bad := range map[string]string{
		"another name": "/bin/true", "no name": filepath.Join(t.TempDir(), "nofx-driver-"),
		"one of ours": filepath.Join(t.TempDir(), "nofx-driver-local"), "not there": plugin + "-2",
	} {
		if err := checkPlugin(bad); !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.Chmod(plugin, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkPlugin(plugin); !step.Is(err, step.KindInvalid) {
		t.Errorf("not executable: %v", err)
	}
}

// A plugin that is a script runs where it lies: what it reads lies beside it.
func TestScriptPlugin(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	for name, text := range map[string]string{"nofx-driver-script": "#!/bin/sh\ncat \"$(dirname \"$(readlink -f \"$0\")\")/module\"\n", "module": "beside it"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s := &System{cfg: Config{Dir: t.TempDir(), BinDir: t.TempDir(), Plugins: []string{filepath.Join(from, "nofx-driver-script")}}}
	for _, name := range []string{"nofx-driver-local", "nofx-supervisor", "nofx-egress"} {
		if err := os.WriteFile(filepath.Join(s.cfg.BinDir, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.installPlugins(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), filepath.Join(s.cfg.Dir, "plugins", "nofx-driver-script")).CombinedOutput(); err != nil || string(out) != "beside it" {
		t.Errorf("%q, %v", out, err)
	}
}
