package up

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"go.yaml.in/yaml/v3"

	"github.com/nofx-run/nofx/cmd/nofx/internal/supervise"
	"github.com/nofx-run/nofx/internal/failpoint"
)

const (
	drainTimeout = 30 * time.Second
	purgeTimeout = 60 * time.Second
	needed       = "local" // the driver that must be there before work starts
)

// daemonConfig is the part of nofxd's configuration that is written here; see
// package daemon for what the fields mean.
type daemonConfig struct {
	APIURL        string `yaml:"api_url"`
	CAFile        string `yaml:"ca_file"`
	TokenFile     string `yaml:"token_file"`
	DataDir       string `yaml:"data_dir"`
	PluginDir     string `yaml:"plugin_dir"`
	PidDir        string `yaml:"pid_dir"`
	Name          string `yaml:"name"`
	Region        string `yaml:"region"`
	Slots         int    `yaml:"slots"`
	Listen        string `yaml:"listen"`
	CgroupRoot    string `yaml:"cgroup_root"`
	UIDBase       uint32 `yaml:"uid_base"`
	UIDCount      uint32 `yaml:"uid_count"`
	DrainTimeout  string `yaml:"drain_timeout"`
	AllowUnsigned bool   `yaml:"allow_unsigned_plugins"`

	Drivers map[string]map[string]any `yaml:"drivers"`
}

func (s *System) startDaemon(ctx context.Context) error {
	if err := s.installPlugins(); err != nil {
		return fmt.Errorf("plugins: %w", err)
	}
	body, err := yaml.Marshal(daemonConfig{
		APIURL:        s.endpoint.URL,
		CAFile:        s.endpoint.CAFile,
		TokenFile:     s.path("worker.token"),
		DataDir:       s.path("worker"),
		PluginDir:     s.path("plugins"),
		PidDir:        s.path("run"),
		Name:          "up-" + s.inst.ID,
		Region:        "local",
		Slots:         8 * runtime.NumCPU(),
		Listen:        "127.0.0.1:0",
		CgroupRoot:    s.inst.cgroupRoot(),
		UIDBase:       s.inst.UIDBase,
		UIDCount:      uidCount,
		DrainTimeout:  drainTimeout.String(),
		AllowUnsigned: true, // they were built a moment ago, by whoever typed make
		Drivers:       s.drivers(),
	})
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(s.path("nofxd.yaml"), body, 0o600); err != nil {
		return err
	}
	probe, err := s.cfg.Dial(s.endpoint)
	if err != nil {
		return err
	}
	list, err := probe.Workers(ctx)
	if err != nil {
		return err
	}
	me := "up-" + s.inst.ID
	earlier := incarnation(list, me)
	child := s.spawn(supervise.Spec{
		Name:    "nofxd",
		Command: func() (*exec.Cmd, error) { return s.daemon(context.Background()), nil },
		Stop:    syscall.SIGINT, // the host goes away with it: a purge follows
		Grace:   drainTimeout + 10*time.Second,
		Abort:   syscall.SIGTERM, // which ends the drain
	})
	if err := s.until(ctx, workerStart, "nofxd", child, func(ctx context.Context) error {
		list, err := probe.Workers(ctx)
		if err != nil {
			return err
		}
		for _, name := range s.needed() {
			if err := there(list, me, earlier, name); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	s.progress("nofxd is up with the driver %s; its plugins are unsigned, as built", strings.Join(s.needed(), " and "))
	return nil
}

// drivers are the configurations of the drivers that can run here.
func (s *System) drivers() map[string]map[string]any {
	all := map[string]map[string]any{needed: {}}
	for _, path := range s.cfg.Plugins {
		all[pluginName(path)] = map[string]any{}
	}
	if s.cfg.Runsc != "" {
		all["local"]["runsc"] = s.cfg.Runsc
	}
	if s.cfg.RootFS != "" {
		all["local"]["rootfs"] = s.cfg.RootFS
	}
	if s.cfg.Docker != "" {
		all["container"] = map[string]any{
			"host": "unix://" + s.cfg.Docker, "state_dir": s.path("worker", "container"), "image": s.cfg.Image,
		}
	}
	if s.cfg.Docker != "" && s.cfg.GVisorRuntime != "" {
		all["container"]["gvisor_runtime"] = s.cfg.GVisorRuntime
	}
	for _, name := range []string{"local", "container"} {
		if c := all[name]; c != nil && len(s.cfg.Resolvers) > 0 {
			c["resolvers"] = s.cfg.Resolvers
		}
	}
	return all
}

func (s *System) daemon(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary("nofxd"), append(args, "--config", s.path("nofxd.yaml"))...)
	cmd.Dir = s.cfg.Dir
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TZ=UTC", "HOME=" + s.cfg.Dir}, failpoint.Environ()...)
	return cmd
}

// purge has the daemon remove everything of this installation from the host:
// sandboxes, cgroups, workspaces.
func (s *System) purge() error {
	ctx, cancel := context.WithTimeout(context.Background(), purgeTimeout)
	defer cancel()
	out, err := s.daemon(ctx, "purge").CombinedOutput()
	if err != nil {
		return fmt.Errorf("nofxd purge: %w: %s", err, lastLine(out))
	}
	return nil
}

// address is an address that one goroutine settles and another reads.
type address struct{ v atomic.Pointer[string] }

func (a *address) set(s string) { a.v.Store(&s) }
func (a *address) get() string  { return *a.v.Load() }
