package container

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/bandwidth"
	"github.com/nofx-run/nofx/internal/volume"
	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/plugins/supervised"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// name is a sandbox's container's.
func name(id string) string { return "nofx-" + id }

// Create implements driver.Driver.
func (d *Driver) Create(ctx context.Context, spec driver.Spec) (driver.Handle, error) {
	err := d.checkSpec(spec)
	var h driver.Handle
	if err == nil {
		h, err = d.Make(ctx, spec, d.start)
	}
	if err != nil {
		d.counts.failed(err)
	}
	return h, err
}

// checkSpec refuses what this driver cannot do.
func (d *Driver) checkSpec(spec driver.Spec) error {
	if s, err := d.configured(); err == nil && s.config.WritableRoot && spec.Resources.DiskMB > 0 {
		return step.Errorf(step.KindUnsupported, "driver container: with writable_root a disk cap is not enforced, so it is refused")
	}
	return d.CheckSpec(spec)
}

// start makes the container and joins it.
func (d *Driver) start(ctx context.Context, b *supervised.Box) (*supervisor.Conn, error) {
	s, err := d.configured()
	if err != nil {
		return nil, err
	}
	systemd, err := s.ready(ctx)
	if err != nil {
		return nil, err
	}
	image, err := d.imageFor(ctx, s, b.Spec.Image)
	if err != nil {
		return nil, err
	}
	if err := d.vet(ctx, s, image); err != nil {
		return nil, err
	}
	share, err := contained.Share(s.config.StateDir, b.Dir, s.config.Supervisor)
	if err != nil {
		return nil, err
	}
	door, err := contained.Listen(share, 0)
	if err != nil {
		return nil, err
	}
	defer door.Close()
	above, err := parent(b.Spec.Host.Cgroup, systemd)
	if err != nil {
		return nil, err
	}
	gvisor := d.GVisor(b.Spec)
	c, h := describe(s, b, image, share, above)
	if gvisor {
		if err := underGVisor(s, b, h); err != nil {
			return nil, err
		}
	}
	if err := limitIO(h, b); err != nil {
		return nil, err
	}
	volumes, variables, err := s.engine.declared(ctx, image)
	if err != nil {
		return nil, err
	}
	for _, name := range variables { // PID 1 is ours and has nothing of the image's
		if name != "PATH" {
			c.Env = append(c.Env, name) // without a value: the engine leaves it out
		}
	}
	if h.ReadonlyRootfs {
		if err := scratchFor(h, volumes, s.scratch()); err != nil {
			return nil, err
		}
	}
	m := maker{s.config.Host, s.id(), systemd}
	if err := d.engines.note(s.config.StateDir, m); err != nil {
		return nil, err
	}
	if err := m.write(b.Dir); err != nil {
		return nil, err
	}
	d.parents.RLock() // nobody removes a group between the runtime's making it and using it
	id, err := s.engine.create(ctx, name(b.Spec.ID), c, h)
	if err == nil {
		d.counts.add(&d.counts.created)
		err = s.engine.start(ctx, id)
	}
	d.parents.RUnlock()
	if err != nil {
		if step.Is(err, step.KindInternal) {
			err = contained.TooSmall(b.Spec.Resources, gvisor, err)
		}
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return d.join(ctx, s, b, id, door, gvisor)
}

// limitIO bounds the reads and writes of the device that the workspace is on,
// and of the host's disks.
func limitIO(h *container.HostConfig, b *supervised.Box) error {
	if b.Spec.Resources.IOMBs == 0 {
		return nil
	}
	rate := uint64(b.Spec.Resources.IOMBs) << 20
	devices, err := volume.Below(b.Workspace, b.Dir)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if _, err := os.Stat(d.Path); err != nil {
			continue // the engine takes it by its node
		}
		limit := &blkiodev.ThrottleDevice{Path: d.Path, Rate: rate}
		h.BlkioDeviceReadBps, h.BlkioDeviceWriteBps = append(h.BlkioDeviceReadBps, limit), append(h.BlkioDeviceWriteBps, limit)
	}
	return nil
}

// join waits for the container's PID 1 and gives it a supervisor.
func (d *Driver) join(ctx context.Context, s *setup, b *supervised.Box, id string, door *contained.Door, gvisor bool) (*supervisor.Conn, error) {
	st, err := s.engine.inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	ended := func() error {
		now, err := s.engine.inspect(ctx, id)
		if err == nil && !now.running {
			err = contained.TooSmall(b.Spec.Resources, gvisor, step.Errorf(step.KindUnavailable, "the container ended as it began: exit %d %s", now.exit, now.err))
			if gvisor && now.exit == contained.NoDoor {
				err = step.Errorf(step.KindInvalid, "the container does not reach the socket that it is given: runsc needs %s", strings.Join(contained.RunscFlags[:], " "))
			}
		}
		return err
	}
	if !st.running || st.pid <= 1 {
		return nil, ended()
	}
	may := contained.Only(st.pid)
	if gvisor {
		may = contained.ByGofer(st.pid)
	}
	channel, err := door.Accept(ctx, may, ended)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(channel) }()
	group, err := contained.GroupOf(st.pid)
	if err == nil {
		err = contained.OneDies(group)
	}
	if err != nil {
		return nil, step.Errorf(step.KindInternal, "the container's control group: %w", err)
	}
	if err := b.SetGroup(group); err != nil {
		return nil, err
	}
	pids := int64(0)
	if gvisor {
		pids = b.Spec.Resources.Pids
	}
	return b.Launcher.Join(ctx, &supervisor.Container{
		GVisor: gvisor, Pids: pids,
		Dir: b.Dir, Until: b.Spec.Until,
		StepID: b.WorkspaceUID, RootID: b.Spec.Host.UIDBase, StepInside: b.WorkspaceUID, RootInside: b.Spec.Host.UIDBase,
		PID: st.pid, Channel: channel,
		MaxOutput: uint64(s.config.MaxOutputMB) << 20, Filter: s.filter, Cgroup: group, Supervisor: b.Spec.Host.Supervisor,
	})
}

// maskedPaths are the engine's own default, and what else tells of the kernel
// or of which host this is: as in sandboxes of the local driver.
var maskedPaths = [...]string{
	"/proc/acpi", "/proc/asound", "/proc/cmdline", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/key-users", "/proc/keys",
	"/proc/kmsg", "/proc/kpagecgroup", "/proc/kpagecount", "/proc/kpageflags", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
	"/proc/sys/kernel/random/boot_id", "/proc/sysrq-trigger", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
	"/sys/devices/virtual/powercap", "/sys/firmware",
}

// underGVisor changes what the engine is to make into a container with gVisor
// for a kernel. What PID 1 may mount there is that kernel's own, for a moment;
// to the host it has no capability.
func underGVisor(s *setup, b *supervised.Box, h *container.HostConfig) error {
	h.Runtime = s.config.GVisorRuntime
	h.CapAdd = append(h.CapAdd, "SYS_ADMIN")
	if b.Spec.Resources.Pids == 0 {
		return nil
	}
	pids := contained.HostPids(b.Spec.Resources.Pids)
	h.PidsLimit = &pids
	return contained.RaisePids(b.Spec.Host.Cgroup, b.Spec.Resources.Pids)
}

// scratch are the options of a folder in memory.
func (s *setup) scratch() string { return fmt.Sprintf("rw,nosuid,nodev,exec,size=%dm", s.config.TmpMB) }

// describe says what the engine is to make. PID 1 is the supervisor's, with
// what it takes to prepare the scratch folders, which it then drops, to become
// the step's user and to signal it; the step itself has no capability, an id of its own, and the filter of every step.
func describe(s *setup, b *supervised.Box, image, share, parent string) (*container.Config, *container.HostConfig) {
	r := b.Spec.Resources
	c := &container.Config{
		Hostname: "sandbox", User: "0:0", Image: image, WorkingDir: "/", NetworkDisabled: true,
		Entrypoint: []string{contained.SharePath + "/" + contained.InitName}, Cmd: []string{"init"},
		Env:         []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
		Labels: map[string]string{
			labelOwner: b.Spec.Tags.Owner, labelTag: b.Spec.Tags.ID, labelBox: b.Spec.ID, labelState: s.config.StateDir,
		},
	}
	scratch := s.scratch() // PID 1 sets owners and modes
	bind := func(from, to string, readOnly bool) mount.Mount {
		return mount.Mount{
			Type: mount.TypeBind, Source: from, Target: to, ReadOnly: readOnly,
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate, NonRecursive: true},
		}
	}
	no := false
	h := &container.HostConfig{
		NetworkMode: "none", IpcMode: container.IPCModePrivate, CgroupnsMode: container.CgroupnsModePrivate,
		ReadonlyRootfs: !s.config.WritableRoot, Runtime: s.config.Runtime, Init: &no,
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		LogConfig:     container.LogConfig{Type: "none"},
		CapDrop:       []string{"ALL"}, CapAdd: []string{"CHOWN", "KILL", "SETUID", "SETGID", "SETPCAP"},
		SecurityOpt: []string{"no-new-privileges"},
		MaskedPaths: maskedPaths[:],
		OomScoreAdj: 200, ShmSize: s.config.ShmMB << 20,
		Mounts: []mount.Mount{bind(share, contained.SharePath, true), bind(b.Workspace, workspacePath, false)},
		Tmpfs:  map[string]string{"/tmp": scratch, "/home/step": scratch},
		Resources: container.Resources{
			CgroupParent: parent, Memory: r.MemoryMB << 20, MemorySwap: r.MemoryMB << 20,
			Ulimits: []*container.Ulimit{{Name: "core", Soft: 0, Hard: 0}, {Name: "nofile", Soft: 1024, Hard: 16384}},
		},
	}
	if r.CPU > 0 { // not NanoCPUs, of which an engine takes no more than its host has
		h.CPUQuota, h.CPUPeriod = bandwidth.Of(r.CPU)
	}
	if r.Pids > 0 {
		h.PidsLimit = &r.Pids
	}
	if b.Spec.Network == step.NetworkAllow || b.Spec.Network == step.NetworkOpen {
		h.Mounts = append(h.Mounts, bind(s.resolvConf, "/etc/resolv.conf", true)) // the way there comes later
	}
	return c, h
}
