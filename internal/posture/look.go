package posture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
)

// Here is what processes of this host are like.
func Here(ids map[string]string) (Reference, error) {
	raw, err := Outside(os.Getpid())
	if err != nil {
		return Reference{}, err
	}
	// A test may have taken the first thread to another network.
	raw["ns"], err = links("/proc/thread-self/ns")
	return Reference{Host: raw, IDs: ids}, err
}

// Exec runs the probe in a sandbox, calls look with what it says while it is
// there, and ends it.
func Exec(ctx context.Context, d driver.Driver, h driver.Handle, s driver.ExecSpec, look func(Raw) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	found, ended := make(chan Raw, 1), make(chan error, 1)
	go func() {
		var out bytes.Buffer
		said := false
		ended <- d.Exec(ctx, h, s, func(e driver.ExecEvent) error {
			out.Write(e.Data)
			if raw, err := Parse(bytes.NewReader(out.Bytes())); err == nil && !said {
				said = true
				found <- raw
			} else if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			if e.Exit != nil && !said {
				return fmt.Errorf("the probe ended: %+v, %q", e.Exit, out.Bytes())
			}
			return nil
		})
	}()
	select {
	case err := <-ended:
		return errors.Join(errors.New("the probe said nothing"), err)
	case raw := <-found:
		err := look(raw)
		err = errors.Join(err, d.Signal(ctx, h, s.ID, "SIGKILL"))
		return errors.Join(err, <-ended)
	}
}

// Sandbox gives the postures of a sandbox in which the probe has said raw: of
// the probe from inside and from outside, of PID 1 and of the supervisor.
func (r Reference) Sandbox(raw Raw, supervisor int) (Set, error) {
	set := Set{"inside": r.Of(raw)}
	if n := raw.threads(); n < 4 {
		return nil, fmt.Errorf("the probe looked from %d threads only", n)
	}
	for name, pid := range map[string]string{"step": "", "init": "1"} {
		at, err := raw.Find(pid)
		if err != nil {
			return nil, err
		}
		out, err := Outside(at)
		if err != nil {
			return nil, err
		}
		if name == "step" && out.threads() != raw.threads() {
			return nil, fmt.Errorf("%d threads from outside, %d from inside", out.threads(), raw.threads())
		}
		set[name] = r.Of(out)
	}
	out, err := Outside(supervisor)
	if err != nil {
		return nil, err
	}
	set["supervisor"] = r.OfHost(out)
	for _, name := range []string{"init", "supervisor"} {
		set[name] = set[name].Kinds()
	}
	return set, nil
}

// Unconfined gives the posture of the probe at path without any sandbox.
func (r Reference) Unconfined(ctx context.Context, path string) (_ Posture, err error) {
	cmd := exec.CommandContext(ctx, path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Posture{}, err
	}
	if err := cmd.Start(); err != nil {
		return Posture{}, err
	}
	raw, err := Parse(out)
	if err = errors.Join(err, cmd.Process.Kill()); err != nil {
		return Posture{}, err
	}
	_ = cmd.Wait() // killed
	return r.Of(raw), nil
}

// Confined tells in which ways a process is not confined, going by an
// unconfined one: none, where they differ in all that matters.
func Confined(p, unconfined Posture) []string {
	var same []string
	if len(p.Threads) != 1 || len(unconfined.Threads) != 1 {
		return []string{"threads"}
	}
	a, b := p.Threads[0], unconfined.Threads[0]
	for name, v := range map[string][2]string{
		"uid": {a.UID, b.UID}, "gid": {a.GID, b.GID}, "cap_permitted": {a.CapPermitted, b.CapPermitted}, "cap_effective": {a.CapEffective, b.CapEffective},
		"cap_bounding": {a.CapBounding, b.CapBounding}, "no_new_privs": {a.NoNewPrivileges, b.NoNewPrivileges}, "seccomp": {a.Seccomp, b.Seccomp},
		"seccomp_filters": {a.SeccompFilters, b.SeccompFilters}, "open files": {p.Limits["open files"], unconfined.Limits["open files"]},
	} {
		if v[0] == v[1] {
			same = append(same, name)
		}
	}
	for _, name := range []string{"mnt", "pid", "ipc", "uts", "cgroup", "net"} {
		if p.Namespaces[name] != "own" || unconfined.Namespaces[name] != "host" {
			same = append(same, name)
		}
	}
	if slices.Equal(p.Mounts, unconfined.Mounts) {
		same = append(same, "mounts")
	}
	slices.Sort(same)
	return same
}

func (raw Raw) threads() int {
	n := 0
	for name := range maps.Keys(raw) {
		if len(name) > len("status/") && name[:len("status/")] == "status/" {
			n++
		}
	}
	return n
}

// Watched makes what a supervisor has from whoever started it the same
// everywhere: whether the two signals that a C library keeps to itself are
// ignored, which goes no further, and its place when memory is short, where
// this process may not give itself a better one either.
func (s Set) Watched(supervisor string) error {
	p := s[supervisor]
	for i, t := range p.Threads {
		ignored, err := strconv.ParseUint(t.SignalsIgnored, 16, 64)
		if err != nil {
			return fmt.Errorf("signals of %s: %w", supervisor, err)
		}
		p.Threads[i].SignalsIgnored = fmt.Sprintf("%016x", ignored&^(3<<31))
	}
	own, err := Outside(os.Getpid())
	if err != nil {
		return err
	}
	here := Reference{Host: own}.Of(own)
	caps, err := strconv.ParseUint(here.Threads[0].CapEffective, 16, 64)
	if err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	if caps&(1<<unix.CAP_SYS_RESOURCE) == 0 && p.OOMScoreAdj == here.OOMScoreAdj {
		p.OOMScoreAdj = supervisorOOM
	}
	s[supervisor] = p
	return nil
}

// supervisorOOM is what a supervisor gives itself: setup.c.
const supervisorOOM = "-900"

// least is in how many things an unconfined process is like itself, so that
// being unlike it means something.
const least = 10

// Audit says what is wrong with the postures of a sandbox: that they are not
// the committed ones, or that a step is like a process that nothing confines.
// What differs from that is the sandbox's doing. probe is the probe's program.
func Audit(ctx context.Context, golden, probe string, set Set) ([]string, error) {
	diff, err := Compare(golden, set)
	if err != nil {
		return nil, err
	}
	var wrong []string
	if diff != "" {
		wrong = append(wrong, "the posture is not the committed one (-update writes it; -want +got):\n"+diff)
	}
	ref, err := Here(nil)
	if err != nil {
		return nil, err
	}
	free, err := ref.Unconfined(ctx, probe)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"inside", "step"} {
		if same := Confined(set[name], free); len(same) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s is like an unconfined process in %v", name, same))
		}
	}
	if same := Confined(free, free); len(same) < least {
		wrong = append(wrong, fmt.Sprintf("an unconfined process passes for confined but for %v", same))
	}
	return wrong, nil
}
