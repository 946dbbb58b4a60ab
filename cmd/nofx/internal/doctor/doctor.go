// Package doctor looks whether a host has what NOFX needs, and says what each
// part that is missing is for and how to get it. It changes nothing.
package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// State is what a check came to.
type State string

// The states. What is Missing keeps something that is named from working;
// without what is Required nothing works.
const (
	OK       State = "ok"
	Missing  State = "missing"
	Required State = "required"
)

// Finding is one line of the report.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	Seen  string `json:"seen"`
	For   string `json:"for,omitempty"` // what does not work without it
	Fix   string `json:"fix,omitempty"`
}

// Host is where to look.
type Host struct {
	FS      fs.FS  // the root file system
	Release string // of the kernel, like 6.1.0-18-amd64
	UID     int
	Docker  func(ctx context.Context) (version string, err error) // asks the engine
	Runtime func(ctx context.Context, name string) error          // whether the engine has that one
	Runsc   func(ctx context.Context) (version string, err error) // asks gVisor's
	Look    func(program string) bool                             // whether it is there
	Open    func(path string) error                               // whether a device can be opened
}

// Examine makes every check, in the order of a report.
func Examine(ctx context.Context, h Host) []Finding {
	return slices.Concat(h.kernel(), h.groups(), h.devices(), h.programs(), h.rootfs(), h.engine(ctx), h.gvisor(ctx))
}

// Healthy reports whether nothing that everything needs is missing.
func Healthy(all []Finding) bool {
	return !slices.ContainsFunc(all, func(f Finding) bool { return f.State == Required })
}

// check is a finding by its outcome; without is Missing or Required.
func check(name, seen string, good bool, without State, what, fix string) Finding {
	if good {
		return Finding{Check: name, State: OK, Seen: seen}
	}
	return Finding{Check: name, State: without, Seen: seen, For: what, Fix: fix}
}

// The oldest kernel of all: idmapped mounts came with it.
const floorMajor, floorMinor = 5, 12

func (h Host) kernel() []Finding {
	major, minor := release(h.Release)
	all := []Finding{
		check("root", "uid "+strconv.Itoa(h.UID), h.UID == 0, Required, "everything: the daemon makes namespaces and control groups", "run as root, or sudo"),
		check("kernel", h.Release, major > floorMajor || major == floorMajor && minor >= floorMinor, Required,
			"every sandbox: idmapped workspaces", fmt.Sprintf("a kernel of %d.%d or newer", floorMajor, floorMinor)),
	}
	users := h.number("proc/sys/user/max_user_namespaces")
	all = append(all, check("user namespaces", "at most "+strconv.FormatInt(users, 10), users > 0, Required, "the driver local",
		"sysctl user.max_user_namespaces=15000"))
	actions := h.text("proc/sys/kernel/seccomp/actions_avail")
	return append(all, check("seccomp", orNone(actions), strings.Contains(actions, "errno"), Required, "every sandbox: the system call filter",
		"a kernel with CONFIG_SECCOMP_FILTER"))
}

func (h Host) groups() []Finding {
	need := []string{"cpu", "memory", "pids"}
	if controllers := h.text("sys/fs/cgroup/cgroup.controllers"); controllers != "" {
		have := strings.Fields(controllers)
		lacks := slices.DeleteFunc(slices.Clone(need), func(c string) bool { return slices.Contains(have, c) })
		return []Finding{
			check("control groups", "v2: "+controllers, len(lacks) == 0, Required, "caps: "+strings.Join(lacks, ", "), "switch the controllers on at boot, or in the parent's cgroup.subtree_control"),
			check("block io", "v2: "+controllers, slices.Contains(have, "io"), Missing, "the cap io_mb_s", "the io controller"),
			check("memory.peak", h.Release, atLeast(h.Release, 5, 19), Missing, "the memory peak in a verdict", "a kernel of 5.19 or newer"),
		}
	}
	var lacks []string
	for _, c := range append(need, "cpuacct", "freezer") {
		if !h.exists("sys/fs/cgroup/" + c) {
			lacks = append(lacks, c)
		}
	}
	seen := "v1"
	if len(lacks) > 0 {
		seen = "v1 without " + strings.Join(lacks, ", ")
	}
	return []Finding{
		check("control groups", seen, len(lacks) == 0, Required, "caps", "mount the hierarchies, or better boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)"),
		check("block io", "v1", h.exists("sys/fs/cgroup/blkio/blkio.throttle.write_bps_device"), Missing, "the cap io_mb_s", "mount the hierarchy blkio"),
	}
}

func (h Host) devices() []Finding {
	tun, loop := h.Open("/dev/net/tun"), h.Open("/dev/loop-control")
	return []Finding{
		check("/dev/net/tun", seenOf(tun), tun == nil, Missing, "steps with a network", "modprobe tun"),
		check("/dev/loop-control", seenOf(loop), loop == nil, Missing, "the cap disk_mb", "modprobe loop"),
	}
}

func (h Host) programs() []Finding {
	var all []Finding
	for _, p := range []struct{ name, what, fix string }{
		{"mkfs.ext4", "the cap disk_mb", "apt-get install e2fsprogs"},
		{"initdb", "nofx up, which runs a Postgres of its own", "apt-get install postgresql"},
	} {
		seen := "there"
		if !h.Look(p.name) {
			seen = "not there"
		}
		all = append(all, check(p.name, seen, seen == "there", Missing, p.what, p.fix))
	}
	return all
}

func (h Host) engine(ctx context.Context) []Finding {
	version, err := h.Docker(ctx)
	if err != nil {
		return []Finding{{Check: "container engine", State: Missing, Seen: err.Error(), For: "the driver container", Fix: "apt-get install docker.io; podman's socket does not do"}}
	}
	major, minor := release(version)
	return []Finding{check("container engine", "API "+version, major > 1 || major == 1 && minor >= 41, Missing, "the driver container", "Docker Engine 20.10 (API 1.41) or newer")}
}

// gvisor looks for the stronger isolation level, of both drivers.
func (h Host) gvisor(ctx context.Context) []Finding {
	version, err := h.Runsc(ctx)
	if err != nil {
		version = err.Error()
	}
	all := []Finding{check("runsc", version, err == nil, Missing, "isolation gvisor on the driver local",
		"make runsc, then runsc in the driver's configuration (nofx up --runsc bin/runsc)")}
	seen := "the engine has runsc"
	err = h.Runtime(ctx, "runsc")
	if err != nil {
		seen = err.Error()
	}
	return append(all, check("engine's runsc", seen, err == nil, Missing, "isolation gvisor on the driver container",
		"runsc with its flags in the engine's daemon.json (docs/container-driver.md), then gvisor_runtime in the driver's configuration"))
}

func atLeast(text string, major, minor int) bool {
	a, b := release(text)
	return a > major || a == major && b >= minor
}

// release reads the first two numbers of a version.
func release(text string) (major, minor int) {
	a, rest, _ := strings.Cut(text, ".")
	b := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		b = rest[:i]
	}
	major, _ = strconv.Atoi(a)
	minor, _ = strconv.Atoi(b)
	return major, minor
}

func (h Host) text(path string) string {
	data, err := fs.ReadFile(h.FS, path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (h Host) number(path string) int64 {
	n, err := strconv.ParseInt(h.text(path), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (h Host) exists(path string) bool {
	_, err := fs.Stat(h.FS, path)
	return err == nil
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func seenOf(err error) string {
	if err != nil {
		return err.Error()
	}
	return "there"
}

// root is the host's file system; fs.FS names have no leading slash.
func root() fs.FS { return os.DirFS("/") }
