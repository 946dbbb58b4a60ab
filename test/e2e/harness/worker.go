package harness

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/nofx-run/nofx/sdk/wire"
)

// Worker is a second daemon that works for the same API.
type Worker struct {
	s      *System
	cmd    *exec.Cmd
	config string
	log    *buffer
}

// AddWorker starts a second nofxd, with data, cgroups and uids of its own, and
// what else of its configuration change sets. It is stopped and purged when the
// test ends.
func (s *System) AddWorker(name string, change ...func(cfg map[string]any)) *Worker {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.Dir, "nofxd.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	var cfg map[string]any
	if err := yaml.Unmarshal(raw, &cfg); err != nil {
		s.t.Fatal(err)
	}
	cfg["name"] = name
	cfg["data_dir"] = filepath.Join(s.Dir, name)
	cfg["pid_dir"] = ""
	cfg["cgroup_root"] = s.Installation() + "_" + name + ".slice"
	// The upper half of a range that nobody else's installation has.
	cfg["uid_base"] = cfg["uid_base"].(int) + cfg["uid_count"].(int)/2
	cfg["uid_count"] = cfg["uid_count"].(int) / 2
	for _, f := range change {
		f(cfg)
	}
	if raw, err = yaml.Marshal(cfg); err != nil {
		s.t.Fatal(err)
	}
	w := &Worker{s: s, config: filepath.Join(s.Dir, name+".yaml"), log: &buffer{}}
	if err := os.WriteFile(w.config, raw, 0o600); err != nil {
		s.t.Fatal(err)
	}
	w.cmd = exec.CommandContext(context.Background(), filepath.Join(s.Bin, "nofxd"), "--config", w.config)
	w.cmd.Stdout, w.cmd.Stderr = w.log, w.log
	if err := w.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(w.stop)
	s.Eventually("worker "+name+" is live", func() bool {
		list, err := s.api.Workers(s.context())
		if err != nil {
			return false
		}
		for _, info := range list.Workers {
			if info.Name == name && info.Status == "live" && slices.ContainsFunc(info.Drivers, func(d wire.DriverInfo) bool { return d.Name == "local" && d.Healthy }) {
				return true
			}
		}
		return false
	})
	return w
}

func (w *Worker) stop() {
	if w.s.t.Failed() {
		w.s.t.Logf("second worker:\n%s", w.log)
	}
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(stopTime, func() { _ = w.cmd.Process.Kill() })
	defer timer.Stop()
	if err := w.cmd.Wait(); err != nil {
		w.s.t.Errorf("second worker: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, filepath.Join(w.s.Bin, "nofxd"), "purge", "--config", w.config).CombinedOutput(); err != nil {
		w.s.t.Errorf("purge: %v: %s", err, out)
	}
}

// Running counts the host's processes whose command line has text.
func Running(text string) int {
	n := 0
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if raw, _ := os.ReadFile(p); strings.Contains(strings.ReplaceAll(string(raw), "\x00", " "), text) {
			n++
		}
	}
	return n
}
