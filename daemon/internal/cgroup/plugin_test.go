package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// What a plugin leaks does not go to the swap.
func TestPluginHasNoSwap(t *testing.T) {
	t.Parallel()
	tree := open(t)
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	for range 2 { // its next process finds the group
		if err := tree.PlacePlugin("leaky", cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	file, want := filepath.Join(tree.ctl["memory"], pluginPrefix+"leaky", "memory.memsw.limit_in_bytes"), strconv.Itoa(pluginMemory)
	if tree.v2 {
		host, err := tree.host()
		if err != nil {
			t.Fatal(err)
		}
		file, want = filepath.Join(host, pluginPrefix+"leaky", "memory.swap.max"), "0"
	}
	got, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		t.Logf("this kernel does not account for swap: %v", err)
		return
	}
	if err != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("%s: %q, %v; want %s", file, got, err, want)
	}
}
