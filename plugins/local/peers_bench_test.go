package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/test/bench"
)

// BenchmarkPeers is one fresh sandbox of each kind, in turns: created, one
// program run in it, its end told, and nothing left. local is what the daemon
// sees of this driver.
func BenchmarkPeers(b *testing.B) {
	ours := sandboxes(b)
	standing := bench.Turns{Warmup: 20, Rounds: 300, Rest: 10 * time.Millisecond}.Run(b,
		bench.Contender{Name: "local", Run: ours("")},
		program("bwrap", "control groups, seccomp, a supervisor that keeps output and exit status", bwrap()...),
		program("exec", "all of it", "/bin/true"),
	)
	standing.Report()
	standing.Ratio("local", "bwrap")
	standing.Ratio("local", "exec")
	s := standing.Of("local")
	standing.Gate.Ratio("local-p99/p50", s.Quantile(0.99)/s.Quantile(0.5))
}

// BenchmarkRuntimes is BenchmarkPeers next to those that take longer, each with
// the flags that come nearest.
func BenchmarkRuntimes(b *testing.B) {
	ours := sandboxes(b)
	gvisor := bench.Contender{Name: "local-gvisor"}
	if _, err := os.Stat(runscPath); err == nil {
		gvisor.Run = ours(driver.IsolationGVisor)
	}
	const ociLacks = "seccomp, a supervisor that keeps output and exit status"
	standing := bench.Turns{Warmup: 3, Rounds: 50, Rest: 20 * time.Millisecond}.Run(b,
		bench.Contender{Name: "local", Run: ours("")},
		program("runc", ociLacks, ociRun(b, "runc")...),
		program("crun", ociLacks, ociRun(b, "crun")...),
		gvisor,
		program("runsc", "control groups, a supervisor", runscRun(b)...),
		dockerRun(b),
	)
	standing.Report()
	for _, other := range []string{"runc", "crun", "runsc", "docker"} {
		standing.Ratio(other, "local")
	}
	standing.Ratio("local-gvisor", "runsc")
}

// sandboxes gives what makes this driver's, of a level. What is timed is what
// has all caps, which a probe sees first.
func sandboxes(b *testing.B) func(level string) func(context.Context) error {
	b.Helper()
	d := New()
	b.Cleanup(d.Close)
	c := drivertest.Connect(b, d)
	change := func(*Config) {}
	if _, err := os.Stat(runscPath); err == nil {
		change = withGVisor
	}
	if err := c.Configure(b.Context(), config(b, change)); err != nil {
		b.Fatal(err)
	}
	spec := benchSpec(b, 0)
	if err := confined(b.Context(), c, spec); err != nil {
		b.Fatal(err)
	}
	n := 0
	return func(level string) func(context.Context) error {
		return func(ctx context.Context) error {
			n++
			s := spec
			s.ID, s.Isolation = fmt.Sprint("peer-", n), level
			return oneSandbox(ctx, c, s)
		}
	}
}

// confined looks from inside.
func confined(ctx context.Context, d driver.Driver, spec driver.Spec) error {
	spec.ID = "peer-probe"
	h, err := d.Create(ctx, spec)
	if err != nil {
		return err
	}
	var out strings.Builder
	probe := trueSpec("main")
	probe.Argv = []string{"/bin/sh", "-c", "cat /proc/self/status; ls /sys/class/net; touch /usr/x"}
	err = d.Exec(ctx, h, probe, func(e driver.ExecEvent) error {
		out.Write(e.Data)
		return nil
	})
	for _, want := range []string{"\nSeccomp:\t2\n", "\nCapEff:\t0000000000000000\n", "\nNoNewPrivs:\t1\n", "Read-only file system"} {
		if err == nil && !strings.Contains(out.String(), want) {
			err = fmt.Errorf("the sandbox that is to be timed has no %q: %s", want, &out)
		}
	}
	if strings.Contains(out.String(), "eth") {
		err = errors.Join(err, errors.New("it has a network"))
	}
	return errors.Join(err, d.Destroy(ctx, h))
}

// program is a contender that is a command line, if its program is there.
func program(name, lacks string, argv ...string) bench.Contender {
	c := bench.Contender{Name: name, Lacks: lacks}
	if len(argv) == 0 {
		return c
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return c
	}
	c.Run = func(ctx context.Context) error {
		if out, err := exec.CommandContext(ctx, path, argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	return c
}

func bwrap() []string {
	return []string{"bwrap", "--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin",
		"--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--die-with-parent", "/bin/true"}
}

// ociRun is runc's or crun's way to run one program: a bundle with the host's
// /usr, read-only, and what sandboxes of ours have: namespaces of its own, the
// user's too, no network, no capability, memory and processes bounded.
func ociRun(b *testing.B, runtime string) []string {
	b.Helper()
	dir := b.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // root in there is nobody here
		b.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	for _, d := range []string{"usr", "proc", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	for _, name := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			b.Fatal(err)
		}
	}
	type object = map[string]any
	space := func(kinds ...string) (all []object) {
		for _, k := range kinds {
			all = append(all, object{"type": k})
		}
		return all
	}
	ids := []object{{"containerID": 0, "hostID": 1900000000, "size": 2}}
	none := []string{}
	ociBundle(b, dir, object{
		"ociVersion": "1.0.2", "hostname": "sandbox",
		"process": object{"args": []string{"/bin/true"}, "cwd": "/", "env": []string{"PATH=/usr/bin:/bin"}, "noNewPrivileges": true, "user": object{"uid": 1, "gid": 1},
			"capabilities": object{"bounding": none, "effective": none, "permitted": none, "inheritable": none, "ambient": none},
			"rlimits":      []object{{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 16384}}},
		"root": object{"path": "root", "readonly": true},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755", "size=64k"}},
			{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "nodev", "size=64m"}},
			{"destination": "/usr", "type": "bind", "source": "/usr", "options": []string{"bind", "ro"}},
		},
		"linux": object{
			"uidMappings": ids, "gidMappings": ids, "namespaces": space("pid", "ipc", "uts", "mount", "network", "user", "cgroup"),
			"cgroupsPath": "/nofx-bench-" + runtime + "-" + random(),
			"resources":   object{"memory": object{"limit": 512 << 20, "swap": 512 << 20}, "pids": object{"limit": 64}},
		},
	})
	return []string{runtime, "--root", filepath.Join(dir, "run"), "run", "--bundle", dir, "bench"}
}

// runscRun is gVisor's own way to run one program, with the flags of ours and
// the least of bundles.
func runscRun(b *testing.B) []string {
	b.Helper()
	dir := b.TempDir()
	bundle := `{"ociVersion":"1.0.2","process":{"args":["/bin/true"],"cwd":"/","env":["PATH=/usr/bin:/bin"],"noNewPrivileges":true},
		"root":{"path":"/","readonly":true},"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}],
		"linux":{"uidMappings":[{"containerID":0,"hostID":1900000000,"size":1}],"gidMappings":[{"containerID":0,"hostID":1900000000,"size":1}],
		"namespaces":[{"type":"pid"},{"type":"ipc"},{"type":"uts"},{"type":"mount"},{"type":"network"},{"type":"user"}]}}`
	ociBundle(b, dir, json.RawMessage(bundle))
	args := append([]string{runscPath, "--root=" + filepath.Join(dir, "run"), "--ignore-cgroups", "--network=none"}, contained.RunscFlags[:]...)
	return append(args, "run", "--bundle="+dir, "bench")
}

func ociBundle(b *testing.B, dir string, bundle any) {
	b.Helper()
	data, err := json.Marshal(bundle)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// dockerRun is the client of a private Docker Engine with the same flags.
func dockerRun(b *testing.B) bench.Contender {
	b.Helper()
	const client = "/usr/bin/docker"
	c := bench.Contender{Name: "docker", Lacks: "a supervisor"}
	for _, path := range []string{client, "/usr/sbin/dockerd", "/usr/bin/containerd"} {
		if _, err := os.Stat(path); err != nil {
			return c
		}
	}
	engine := dockerEngine(b)
	return program("docker", c.Lacks, client, "-H", engine.Host(), "run", "--rm", "--network", "none", "--read-only",
		"--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "512m", "--memory-swap", "512m", "--pids-limit", "64",
		"--ipc", "private", "--cgroupns", "private", "--tmpfs", "/tmp", "--tmpfs", "/home/step", "--user", "1900000001", testdocker.Image, "/bin/true")
}
