package up

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// pluginPrefix is what the file of a driver plugin is called, before its name.
const pluginPrefix = "nofx-driver-"

// checkPlugin refuses what the daemon would not take for a plugin of its own name.
func checkPlugin(path string) error {
	name, ok := strings.CutPrefix(filepath.Base(path), pluginPrefix)
	if !ok || name == "" {
		return step.Errorf(step.KindInvalid, "--driver %s: a plugin is called %sNAME", path, pluginPrefix)
	}
	if name == "local" || name == "container" {
		return step.Errorf(step.KindInvalid, "--driver %s: %s is a driver of the build", path, name)
	}
	info, err := os.Stat(path)
	if err != nil {
		return step.Errorf(step.KindInvalid, "--driver: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return step.Errorf(step.KindInvalid, "--driver %s: not an executable file", path)
	}
	return nil
}

// needed are the drivers that must be there before work starts.
func (s *System) needed() []string {
	names := []string{needed}
	for _, path := range s.cfg.Plugins {
		names = append(names, pluginName(path))
	}
	return names
}

func pluginName(path string) string { return strings.TrimPrefix(filepath.Base(path), pluginPrefix) }

// incarnation is that of the worker as the API knows it; "" = it knows none.
func incarnation(list wire.WorkerList, worker string) string {
	for _, w := range list.Workers {
		if w.Name == worker {
			return w.Incarnation
		}
	}
	return ""
}

// there says why the worker's driver is not. What an earlier incarnation of the
// worker had is not there, though the API may still take it for live.
func there(list wire.WorkerList, worker, earlier, name string) error {
	if incarnation(list, worker) == earlier {
		return errors.New("it has not registered")
	}
	for _, w := range list.Workers {
		for _, d := range w.Drivers {
			if w.Name == worker && w.Status == "live" && d.Name == name {
				if d.Healthy {
					return nil
				}
				return fmt.Errorf("driver %s: %s", d.Name, d.Message)
			}
		}
	}
	return fmt.Errorf("no live worker with the driver %s", name)
}

// installPlugins copies the driver plugins and their programs to a folder
// that root alone can change, whoever owns the build's. One that is a script is
// run from where it is: what it reads lies beside it.
func (s *System) installPlugins() error {
	dir := s.path("plugins")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	plugins, err := filepath.Glob(s.binary(pluginPrefix + "*"))
	if err != nil {
		return err
	}
	if len(plugins) == 0 {
		return fmt.Errorf("no nofx-driver-* in %s: run make build", s.cfg.BinDir)
	}
	plugins = slices.DeleteFunc(plugins, func(path string) bool { // one that was asked for takes its place
		return slices.ContainsFunc(s.cfg.Plugins, func(asked string) bool { return pluginName(asked) == pluginName(path) })
	})
	for _, from := range slices.Concat(plugins, s.cfg.Plugins, []string{s.binary("nofx-supervisor"), s.binary("nofx-egress")}) {
		if err := install(from, filepath.Join(dir, filepath.Base(from))); err != nil {
			return err
		}
	}
	return nil
}

func install(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if pluginmanifest.Interpreted(in) {
		if from, err = filepath.Abs(from); err != nil {
			return err
		}
		return os.Symlink(from, to)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
