package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// Two daemons with one cgroup_root would take each other's steps for what a crash
// has left, and kill them.
func TestOneDaemonForEachGroup(t *testing.T) {
	t.Parallel()
	root := fmt.Sprintf("nofxtest_%08x.slice", rand.Uint32())
	config := func(name string) Config {
		dir := t.TempDir()
		token, plugins := filepath.Join(dir, "token"), filepath.Join(dir, "plugins")
		if err := os.WriteFile(token, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(plugins, 0o755); err != nil {
			t.Fatal(err)
		}
		c, err := Config{APIURL: "https://127.0.0.1:1", TokenFile: token, DataDir: filepath.Join(dir, "data"), PluginDir: plugins,
			Name: name, CgroupRoot: root, AllowUnsigned: true}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	log := slog.New(slog.DiscardHandler)
	one, other := config("one"), config("other")
	first, err := New(one, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		if err := first.cgroups.RemoveAll(ctx); err != nil {
			t.Error(err)
		}
	})
	again := other
	again.CgroupRoot = "./" + root
	for _, c := range []Config{other, again} {
		if d, err := New(c, log); !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), "cgroup_root") {
			t.Errorf("a second one: %v, %v", d, err)
		}
		if err := Purge(t.Context(), c, log, false); !step.Is(err, step.KindConflict) {
			t.Errorf("a purge for a second one: %v", err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := New(other, log)
	if err != nil {
		t.Fatalf("once the first has ended: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}
