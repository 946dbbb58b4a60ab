package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/internal/volume"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Host says what is special about a worker host.
type Host struct {
	// DiskMB puts the daemon's data on a file system of its own of that size,
	// which can be filled; 0 = on the fleet's.
	DiskMB int64
	// Clock is how far this host's monotonic clocks are ahead of the others'.
	Clock time.Duration
}

// Daemon is one nofxd, with a host's worth of its own.
type Daemon struct {
	*Process
	API    *Link  // to an API
	Group  string // name of its control group
	Disk   bool   // it can be filled
	dir    string // configuration, data, plugins' pids
	config string
	bin    string
	held   string // folder of its failpoints
	host   Host
}

const slots = 6 // steps at once on a host

func (f *Fleet) newDaemon(ctx context.Context, i int, host Host) (*Daemon, error) {
	name := "host-" + strconv.Itoa(i)
	d := &Daemon{
		dir: filepath.Join(f.Dir, name), bin: filepath.Join(f.cfg.Bin, "nofxd"), held: f.points(name), host: host,
		Group: f.Group() + "_" + strconv.Itoa(i) + ".slice", Disk: host.DiskMB > 0,
	}
	d.config = filepath.Join(d.dir, "nofxd.yaml")
	if err := os.MkdirAll(filepath.Join(d.dir, "run"), 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.Data(), 0o700); err != nil {
		return nil, err
	}
	if d.Disk {
		if err := volume.Mount(ctx, d.image(), d.Data(), host.DiskMB, 0); err != nil {
			return nil, err
		}
		if err := os.Chmod(d.Data(), 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if d.API, err = newLink(name+" to API", f.APIs[i%len(f.APIs)].addr()); err != nil {
		return nil, err
	}
	body, err := yaml.Marshal(map[string]any{
		"api_url": "https://" + d.API.Addr(), "ca_file": f.cert.cert, "token_file": filepath.Join(f.Dir, "worker.token"),
		"data_dir": d.Data(), "plugin_dir": filepath.Join(f.Dir, "plugins"), "pid_dir": filepath.Join(d.dir, "run"),
		"name": name, "region": "local", "slots": slots, "listen": "127.0.0.1:0",
		"cgroup_root": d.Group, "uid_base": f.uids + uint32(i)*f.uidShare(), "uid_count": f.uidShare(),
		"drain_timeout": "5s", "allow_unsigned_plugins": true, "drivers": map[string]any{"local": map[string]any{}},
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(d.config, body, 0o600); err != nil {
		return nil, err
	}
	d.Process = newProcess(name, filepath.Join(f.Dir, name+".log"), f.cfg.Note, func() *exec.Cmd { return d.command(context.Background()) })
	d.points = d.held
	d.ready = func(ctx context.Context) error { return f.live(ctx, name) }
	return d, nil
}

// Data is its data folder.
func (d *Daemon) Data() string { return filepath.Join(d.dir, "data") }

func (d *Daemon) image() string { return filepath.Join(d.dir, "data.img") }

// command is nofxd, in a time namespace where its clock is not ours.
func (d *Daemon) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := append(append([]string{d.bin}, args...), "--config", d.config)
	if ahead := strconv.Itoa(int(d.host.Clock.Seconds())); ahead != "0" {
		argv = append([]string{"/usr/bin/unshare", "--time", "--boottime", ahead, "--monotonic", ahead, "--"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = d.dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TZ=UTC", "HOME=" + d.dir, failpoint.Env + "=" + d.held}
	return cmd
}

// Plugin is the process id of its local driver, 0 when none runs.
func (d *Daemon) Plugin() int {
	body, err := os.ReadFile(filepath.Join(d.dir, "run", "nofx-driver-local.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(body)))
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || pid <= 1 || !bytes.Contains(args, []byte("nofx-driver-local")) {
		return 0 // of a process that has ended
	}
	return pid
}

// Supervisors are the process ids of the supervisors of its sandboxes.
func (d *Daemon) Supervisors() []int {
	var pids []int
	for _, pid := range processes() {
		if d.owns(pid, "/supervisors\n") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// owns reports whether a process is in such a control group of this host.
func (d *Daemon) owns(pid int, group string) bool {
	groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // it may have ended
	return bytes.Contains(groups, []byte("/"+d.Group+"/")) && bytes.Contains(groups, []byte(group))
}

// Fill takes all the room on its disk. Free gives it back.
func (d *Daemon) Fill() error {
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 1 << 20; size >= 4<<10; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 4
		}
	}
	return nil
}

// Free removes what Fill wrote.
func (d *Daemon) Free() error {
	if err := os.Remove(d.ballast()); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func (d *Daemon) ballast() string { return filepath.Join(d.Data(), "ballast") }

// Sweep has the daemon sweep now.
func (d *Daemon) Sweep(ctx context.Context) (wire.SweepReport, error) {
	var report wire.SweepReport
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(d.Data(), "nofxd.sock"))
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://nofxd/sweep", nil)
	if err != nil {
		return report, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return report, err
	}
	defer resp.Body.Close()
	return report, json.NewDecoder(resp.Body).Decode(&report)
}

// remove ends the daemon and takes all that it has off this machine.
func (d *Daemon) remove() error {
	err := d.stop(syscall.SIGTERM, 60*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if out, e := d.command(ctx, "purge").CombinedOutput(); e != nil {
		err = fmt.Errorf("%s: purge: %w: %s (%w)", d.Name, e, out, err)
	}
	d.API.close()
	if d.Disk {
		if e := volume.Unmount(d.image(), d.Data()); e != nil {
			err = fmt.Errorf("%s: %w (%w)", d.Name, e, err)
		}
	}
	return err
}

// Resource is something that a host has of a fleet.
type Resource struct {
	Kind string // process, mount, cgroup, sandbox, journal or workspace
	Name string
}

// Resources lists what this host has of steps: sandboxes, workspaces, journals,
// groups, processes and mounts.
func (d *Daemon) Resources() []Resource {
	var all []Resource
	add := func(kind, name string) { all = append(all, Resource{Kind: kind, Name: name}) }
	for kind, dir := range map[string]string{"workspace": "work", "journal": "journal", "sandbox": "local"} {
		entries, _ := os.ReadDir(filepath.Join(d.Data(), dir))
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				add(kind, e.Name())
			}
		}
	}
	for _, pid := range processes() {
		if d.owns(pid, "/supervisors\n") || d.owns(pid, "/att_") {
			add("process", fmt.Sprintf("%d %s", pid, comm(pid)))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], d.Data()+"/") {
			add("mount", fields[4])
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.HasPrefix(e.Name(), "att_") && strings.Contains(path, d.Group) {
			add("cgroup", path)
			return fs.SkipDir
		}
		return nil // a group that vanishes while we look is fine
	})
	return all
}

func comm(pid int) string {
	body, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(body))
}

func processes() []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	pids := make([]int, 0, len(dirs))
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// children are the direct ones of a process.
func children(parent int) []int {
	var pids []int
	for _, pid := range processes() {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// After the name in parentheses: state, parent.
		rest := stat[bytes.LastIndexByte(stat, ')')+1:]
		if fields := strings.Fields(string(rest)); len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids
}
