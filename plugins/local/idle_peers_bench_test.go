package local

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/testdocker"
)

// BenchmarkIdlePeers is the memory that each sandbox in which nothing happens
// costs, beside that of the program in it: ours, bwrap's, and the shims of
// containers. The engine itself, of which there is one, is not counted. Memory
// is what it is on a busy machine too.
func BenchmarkIdlePeers(b *testing.B) {
	const many, containers = 50, 12
	c, _, failed := newCrowd(b, many, 4)
	if failed > 0 {
		b.Fatalf("%d sandboxes failed", failed)
	}
	var total int64
	for _, s := range c.specs {
		for _, pid := range slices.Concat(groupMembers(b, s.Host.Cgroup), groupMembers(b, s.Host.Supervisor)) {
			total += pss(b, pid)
		}
	}
	ours := float64(total) / 1024 / many
	b.ReportMetric(ours, "local-MiB")
	if mib, ok := idleBwrap(b, many); ok {
		b.ReportMetric(mib, "bwrap-MiB")
		b.ReportMetric(ours/mib, "local/bwrap")
	}
	if mib, ok := idleContainers(b, containers); ok {
		b.ReportMetric(mib, "docker-MiB")
		b.ReportMetric(ours/mib, "local/docker")
	}
	b.ReportMetric(0, "ns/op")
}

// idleBwrap is what bwrap costs a sandbox.
func idleBwrap(b *testing.B, n int) (mib float64, ok bool) {
	b.Helper()
	if _, err := exec.LookPath("bwrap"); err != nil {
		b.Log("bwrap: not there")
		return 0, false
	}
	argv := bwrap()
	argv = append(argv[:len(argv)-1], "/bin/sh", "-c", "echo ready; read line")
	var total int64
	for range n {
		cmd := exec.CommandContext(b.Context(), argv[0], argv[1:]...)
		in, err := cmd.StdinPipe() // the shell waits for it
		if err != nil {
			b.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = in.Close()
			_ = cmd.Wait() // the shell found no line
		})
		if _, err := out.Read(make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		total += tree(b, cmd.Process.Pid, "bwrap")
	}
	return float64(total) / 1024 / float64(n), true
}

// idleContainers is what an engine's containers cost, each.
func idleContainers(b *testing.B, n int) (mib float64, ok bool) {
	b.Helper()
	if _, err := os.Stat("/usr/sbin/dockerd"); err != nil {
		b.Log("docker: not there")
		return 0, false
	}
	engine := dockerEngine(b)
	var total int64
	for range n {
		out, err := exec.CommandContext(b.Context(), "/usr/bin/docker", "-H", engine.Host(), "run", "--detach", "--rm", "--network", "none", "--read-only",
			"--cap-drop", "ALL", testdocker.Image, "/bin/sleep", "3600").CombinedOutput()
		if err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	shims := 0
	for pid, args := range commands() {
		if strings.Contains(args, "containerd-shim") && strings.Contains(args, filepath.Dir(engine.Socket())+"/") {
			total += pss(b, strconv.Itoa(pid))
			shims++
		}
	}
	if shims != n {
		b.Fatalf("%d containers have %d shims", n, shims)
	}
	return float64(total) / 1024 / float64(n), true
}

// tree is the memory of a process and its descendants that run a program.
func tree(b *testing.B, pid int, program string) int64 {
	b.Helper()
	var total int64
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(name)) == program {
		total = pss(b, strconv.Itoa(pid))
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, text := range strings.Fields(string(children)) {
		child, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		total += tree(b, child, program)
	}
	return total
}

// commands are the command lines of all processes.
func commands() map[int]string {
	all := map[int]string{}
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
	for _, path := range found {
		raw, err := os.ReadFile(path)
		pid, bad := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && bad == nil {
			all[pid] = string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '}))
		}
	}
	return all
}

// dockerEngine is a private Docker Engine, with the files of all its processes
// in one folder, that ends with the benchmark.
func dockerEngine(b *testing.B) *testdocker.Engine {
	b.Helper()
	dir, err := os.MkdirTemp("", "nofx-bench") // sockets have short names
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	engine, err := testdocker.Start(context.WithoutCancel(b.Context()), dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := engine.Stop(); err != nil {
			b.Error(err)
		}
	})
	return engine
}
