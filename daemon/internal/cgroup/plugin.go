package cgroup

import (
	"path/filepath"
	"strconv"

	"os"

	"github.com/nofx-run/nofx/sdk/step"
)

// pluginCaps bound one driver plugin: it may leak or loop, and neither the
// host nor another plugin notices.
const (
	pluginMemory = 1 << 30 // bytes
	pluginTasks  = 1024
	pluginPrefix = "plugin_"
)

// PlacePlugin puts a driver plugin's process into a group of its own, beside
// the tenants' groups.
func (t *Tree) PlacePlugin(name string, pid int) error {
	child := pluginPrefix + safe(name)
	memory, tasks := strconv.Itoa(pluginMemory), strconv.Itoa(pluginTasks)
	if t.v2 {
		host, err := t.host()
		if err != nil {
			return err
		}
		return place(filepath.Join(host, child), pid, [][2]string{{"memory.max", memory}, {"pids.max", tasks}}, [2]string{"memory.swap.max", "0"})
	}
	for controller, dir := range t.ctl {
		var limits [][2]string
		var swap [2]string
		switch controller {
		case "memory":
			limits = [][2]string{{"memory.limit_in_bytes", memory}}
			swap = [2]string{"memory.memsw.limit_in_bytes", memory} // memory and swap together
		case "pids":
			limits = [][2]string{{"pids.max", tasks}}
		}
		if err := place(filepath.Join(dir, child), pid, limits, swap); err != nil {
			return err
		}
	}
	return nil
}

// place makes the group, if need be, and puts the process into it. swap is set
// where the kernel accounts for it: without, what leaks goes there.
func place(dir string, pid int, limits [][2]string, swap [2]string) error {
	if err := exists(os.Mkdir(dir, 0o755)); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, swap[0])); swap[0] != "" && err == nil {
		limits = append(limits, swap)
	}
	for _, l := range append(limits, [2]string{"cgroup.procs", strconv.Itoa(pid)}) {
		if err := write(filepath.Join(dir, l[0]), l[1]); err != nil {
			return step.Errorf(step.KindInternal, "cgroup of the plugin: %w", err)
		}
	}
	return nil
}
