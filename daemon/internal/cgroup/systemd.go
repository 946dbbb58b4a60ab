package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/coreos/go-systemd/v22/util"
	"github.com/godbus/dbus/v5"

	"github.com/nofx-run/nofx/sdk/step"
)

const (
	holder      = "holder"         // the folder in a scope that its own process is in
	askTimeout  = 20 * time.Second // for what is asked of systemd
	stopTimeout = 5 * time.Second  // of a scope's processes from TERM to KILL
)

// sliceName is what systemd takes for a slice.
var sliceName = regexp.MustCompile(`^[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*\.slice$`)

// units are the systemd units that the groups are made below.
//
// systemd owns every group that it has not delegated: as soon as it starts or
// stops a unit in a slice, it writes the slice's controllers anew from what its
// own units need, and the caps of a stranger's group there are gone, silently.
// It delegates scopes and services, not slices, and removes them once they are
// empty. So each slice of ours gets a scope, kept by a process that sleeps.
type units struct {
	prefix string // of every unit's name
	dir    string // of the root slice

	mu    sync.Mutex
	ready map[string]bool // scopes that this process has seen in order
}

// newUnits are the units below a root slice, nil where systemd does not run.
func newUnits(root string) (*units, error) {
	if !util.IsRunningSystemd() {
		return nil, nil
	}
	if !sliceName.MatchString(root) {
		return nil, step.Errorf(step.KindInvalid, "cgroup_root %q: under systemd it is the name of a slice, such as nofx.slice", root)
	}
	u := &units{prefix: strings.TrimSuffix(root, ".slice"), dir: mountPoint, ready: map[string]bool{}}
	name := ""
	for _, part := range strings.Split(u.prefix, "-") { // a-b.slice is in a.slice
		name = strings.TrimPrefix(name+"-"+part, "-")
		u.dir = filepath.Join(u.dir, name+".slice")
	}
	return u, nil
}

// host is the scope of what is nobody's step: supervisors and plugins. The
// dots keep it apart from every tenant's, of other installations too.
func (u *units) host() string { return filepath.Join(u.dir, u.prefix+".host.scope") }

// slice is a tenant's.
func (u *units) slice(tenant string) string { return u.prefix + "-" + tenant + ".slice" }

// scope is where a tenant's attempts have their groups.
func (u *units) scope(tenant string) string {
	return filepath.Join(u.dir, u.slice(tenant), u.prefix+"-"+tenant+".steps.scope")
}

// ensure makes the scope of that folder, unless it is there and in order.
func (u *units) ensure(dir string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ready[dir] {
		if _, err := os.Stat(filepath.Join(dir, holder)); err == nil {
			return nil
		}
		delete(u.ready, dir) // an operator stopped it
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	scope, slice := filepath.Base(dir), filepath.Base(filepath.Dir(dir))
	conn, err := systemd.NewWithContext(ctx)
	if err != nil {
		return step.Errorf(step.KindUnavailable, "systemd: %w", err)
	}
	defer conn.Close()
	active, err := settled(ctx, conn, scope)
	if err == nil && !active {
		err = startScope(ctx, conn, scope, slice)
	}
	if err == nil {
		err = arrange(dir)
	}
	if err != nil {
		return step.Errorf(step.KindUnavailable, "systemd: %s: %w", scope, err)
	}
	u.ready[dir] = true
	return nil
}

// settled waits until a unit neither starts nor stops, and reports whether it
// is active.
func settled(ctx context.Context, conn *systemd.Conn, unit string) (bool, error) {
	for {
		p, err := conn.GetUnitPropertyContext(ctx, unit, "ActiveState")
		if err != nil {
			return false, err
		}
		switch state, _ := p.Value.Value().(string); state {
		case "active":
			return true, nil
		case "activating", "deactivating", "reloading":
		default:
			return false, nil
		}
		if err := pause(ctx, unit+" does not settle"); err != nil {
			return false, err
		}
	}
}

// startScope has systemd make a delegated scope around a new holder.
func startScope(ctx context.Context, conn *systemd.Conn, scope, slice string) error {
	pid, err := startHolder(ctx)
	if err != nil {
		return err
	}
	prop := func(name string, value any) systemd.Property {
		return systemd.Property{Name: name, Value: dbus.MakeVariant(value)}
	}
	done := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, scope, "fail", []systemd.Property{
		systemd.PropDescription("NOFX sandboxes"),
		systemd.PropSlice(slice),
		systemd.PropPids(uint32(pid)),
		prop("Delegate", true),
		prop("TasksMax", ^uint64(0)), // the caps are the attempts' and the slice's
		prop("CollectMode", "inactive-or-failed"),
		prop("TimeoutStopUSec", uint64(stopTimeout/time.Microsecond)),
		// When the host goes down, the daemon ends before what it looks after.
		prop("Before", []string{"nofxd.service"}),
	}, done)
	if err == nil {
		err = await(ctx, done)
	}
	if err != nil {
		return errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
	}
	return nil
}

// await waits for the end of a job of systemd's.
func await(ctx context.Context, done <-chan string) error {
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("its job ended as %s", result)
		}
		return nil
	case <-ctx.Done():
		return ended(ctx, "its job does not end")
	}
}

// startHolder starts a process that sleeps and is init's child, not ours: it
// outlives the daemon.
func startHolder(ctx context.Context) (pid int, err error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "sleep infinity </dev/null >/dev/null 2>&1 & echo $!")
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.Output()
	if err != nil {
		return 0, err
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(out))); err != nil {
		return 0, err
	}
	// A tenant that meets its cap loses a step, not the holder.
	if err := write(fmt.Sprintf("/proc/%d/oom_score_adj", pid), "-1000"); err != nil {
		return 0, errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
	}
	return pid, nil
}

// arrange makes a scope ready for groups: its processes in the holder's
// folder, for a group with children has none itself, one at least, and the
// controllers on.
func arrange(dir string) error {
	inner := filepath.Join(dir, holder)
	if err := exists(os.Mkdir(inner, 0o755)); err != nil {
		return err
	}
	pids, err := processes(dir)
	if err != nil {
		return err
	}
	have, err := processes(inner)
	if err != nil {
		return err
	}
	if len(pids)+len(have) == 0 {
		pid, err := startHolder(context.Background())
		if err != nil {
			return err
		}
		pids = append(pids, pid)
	}
	for _, pid := range pids {
		if err := write(filepath.Join(inner, "cgroup.procs"), strconv.Itoa(pid)); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return controllers(dir)
}

// stop ends every unit of ours with what is in it. Another installation's
// slice can be in ours, by its name; it stays, and so does what is above it.
func (u *units) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := systemd.NewWithContext(ctx)
	if err != nil {
		return step.Errorf(step.KindUnavailable, "systemd: %w", err)
	}
	defer conn.Close()
	names, err := folders(u.dir)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		inner := filepath.Join(u.dir, name, strings.TrimSuffix(name, ".slice")+".host.scope")
		_, err := os.Stat(inner)
		return err == nil // another installation's
	})
	var errs []error
	for _, name := range names {
		errs = append(errs, stopUnit(ctx, conn, name, filepath.Join(u.dir, name)))
	}
	if left, err := folders(u.dir); err != nil || len(left) > 0 {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, stopUnit(ctx, conn, u.prefix+".slice", u.dir))...)
}

// stopUnit stops a unit and waits until its group is gone.
func stopUnit(ctx context.Context, conn *systemd.Conn, name, dir string) error {
	done := make(chan string, 1)
	_, err := conn.StopUnitContext(ctx, name, "replace", done)
	var refused dbus.Error
	if errors.As(err, &refused) && refused.Name == "org.freedesktop.systemd1.NoSuchUnit" {
		return gone(os.Remove(dir)) // nobody's
	}
	if err == nil {
		err = await(ctx, done)
	}
	for err == nil {
		if _, statErr := os.Stat(dir); errors.Is(statErr, fs.ErrNotExist) {
			return nil
		}
		err = pause(ctx, dir+" stays")
	}
	return step.Errorf(step.KindUnavailable, "systemd: stop %s: %w", name, err)
}
