package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

const (
	startTime  = 20 * time.Second
	maxTrouble = 1000 // bytes of what a gateway says
)

// Start gives a sandbox its network and returns when it is there. When it
// fails, nothing of it is left but files in the sandbox's folder.
func (h *Host) Start(ctx context.Context, s Sandbox) error {
	if err := h.start(ctx, s); err != nil {
		return step.Errorf(step.KindUnavailable, "the sandbox's network: %w", err)
	}
	return nil
}

func (h *Host) start(ctx context.Context, s Sandbox) (err error) {
	root := filepath.Join(s.Dir, rootFolder)
	if err := os.Mkdir(root, 0o555); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	config, err := json.Marshal(Config{Policy: s.Policy, Resolvers: h.Resolvers, UID: s.UID, Root: root, Made: s.Made})
	if err != nil {
		return err
	}
	var files closers
	defer files.close()
	counters, err := files.keep(makeCounters(filepath.Join(s.Dir, countersFile)))
	if err != nil {
		return err
	}
	netns, err := files.keep(os.Open("/proc/" + strconv.Itoa(s.PID) + "/ns/net"))
	if err != nil {
		return err
	}
	peer, err := files.keep(pidFD(s.Supervisor))
	if err != nil {
		return err
	}
	in, inOther, err := files.pipe()
	if err != nil {
		return err
	}
	ready, readyOther, err := files.pipe()
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{
		Path: h.Path, Args: []string{"nofx-egress"}, Env: []string{}, Dir: "/",
		ExtraFiles:  []*os.File{in, netns, counters, peer, readyOther},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if s.Group.V2 != "" {
		group, err := files.keep(os.Open(s.Group.V2))
		if err != nil {
			return err
		}
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it is nobody's child to wait for but ours, while we live
	defer func() {
		if err != nil {
			_ = cmd.Process.Kill()
		}
	}()
	_, _ = in.Close(), readyOther.Close()
	if err := join(s.Group, cmd.Process.Pid); err != nil {
		return err
	}
	// Before the configuration, without which it ends by itself.
	if err := os.WriteFile(filepath.Join(s.Dir, pidFile), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return err
	}
	if _, err := inOther.Write(config); err != nil {
		return err
	}
	_ = inOther.Close()
	return awaitReady(ctx, ready)
}

// DeviceWord is the first argument of a gateway's program that makes the device of
// a network namespace and then executes another program in it.
const DeviceWord = "device"

// Device is the command that executes another one in a network namespace of its
// own, in which a sandbox's device is there before anybody is at its other end: for
// a kernel that takes over what it finds when it starts.
func (h *Host) Device(ctx context.Context, path string, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, h.Path)
	cmd.Args = append([]string{"nofx-egress", DeviceWord, path}, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	return cmd
}

// awaitReady waits for the gateway's word.
func awaitReady(ctx context.Context, ready *os.File) error {
	if err := ready.SetReadDeadline(time.Now().Add(startTime)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	word, err := io.ReadAll(io.LimitReader(ready, maxTrouble))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("the gateway does not begin: %w", err)
	case string(word) == ReadyWord:
		return nil
	case len(word) == 0:
		return errors.New("the gateway died as it began")
	}
	return errors.New(string(word))
}

// join puts a process into groups of version 1.
func join(g driver.Cgroup, pid int) error {
	for _, dir := range g.V1 {
		f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(strconv.Itoa(pid))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// makeCounters makes the file of counters anew and locks it.
func makeCounters(path string) (*os.File, error) {
	_ = os.Remove(path)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(CountersSize), unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func pidFD(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// closers are files that are closed together.
type closers []*os.File

func (c *closers) keep(f *os.File, err error) (*os.File, error) {
	if err == nil {
		*c = append(*c, f)
	}
	return f, err
}

func (c *closers) pipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err == nil {
		*c = append(*c, r, w)
	}
	return r, w, err
}

func (c *closers) close() {
	for _, f := range *c {
		_ = f.Close()
	}
}

func parseAddr(text string) (string, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return "", err
	}
	return netip.AddrPortFrom(a, 53).String(), nil
}
