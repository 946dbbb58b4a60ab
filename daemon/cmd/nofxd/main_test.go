package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
)

// nofxdEnv makes the test binary nofxd.
const nofxdEnv = "NOFX_TEST_NOFXD"

// The test binary is nofxd as well, and as nofx-driver-<name> a plugin.
func TestMain(m *testing.M) {
	if name, ok := strings.CutPrefix(filepath.Base(os.Args[0]), "nofx-driver-"); ok {
		driverrpc.Serve(memdriver.New(memdriver.NewWorld(), memdriver.Options{Name: name}))
		return
	}
	if os.Getenv(nofxdEnv) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// rig is a running nofxd whose API is away.
type rig struct {
	t    *testing.T
	dir  string
	name string
	log  logBuffer
	cmd  *exec.Cmd
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (r *rig) path(elem ...string) string { return filepath.Join(append([]string{r.dir}, elem...)...) }

func (r *rig) configure(drivers string) {
	r.t.Helper()
	body := fmt.Sprintf("api_url: https://127.0.0.1:1\ntoken_file: %s\ndata_dir: %s\nplugin_dir: %s\npid_dir: %s\nname: %s\n"+
		"cgroup_root: %s\nuid_base: 2070000000\nuid_count: 65536\nallow_unsigned_plugins: true\ndrain_timeout: 1s\ndrivers: %s\n",
		r.path("token"), r.path("data"), r.path("plugins"), r.path("run"), r.name, r.name, drivers)
	if err := os.WriteFile(r.path("nofxd.yaml"), []byte(body), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) command(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(self, append(args, "--config", r.path("nofxd.yaml"))...)
	cmd.Env = append(os.Environ(), nofxdEnv+"=1")
	return cmd
}

func (r *rig) plugin(name string) {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.path("plugins", "nofx-driver-"+name), data, 0o755); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !f(); <-tick.C {
		if time.Now().After(deadline) {
			r.t.Fatalf("it did not come about: %s\n%s", what, r.log.String())
		}
	}
}

func (r *rig) logged(text string) {
	r.t.Helper()
	r.until("the log says "+text, func() bool { return strings.Contains(r.log.String(), text) })
}

func (r *rig) pid(name string) string {
	data, err := os.ReadFile(r.path("run", "nofx-driver-"+name+".pid"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// metrics is what Prometheus would read.
func (r *rig) metrics() string {
	r.t.Helper()
	addr, err := os.ReadFile(r.path("data", "metrics.addr"))
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+strings.TrimSpace(string(addr))+"/metrics", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(body)
}

func (r *rig) metric(line string) {
	r.t.Helper()
	r.until("the metric "+line, func() bool { return strings.Contains("\n"+r.metrics(), "\n"+line+"\n") })
}

func (r *rig) hangup() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
}

func TestHangup(t *testing.T) {
	t.Parallel()
	r := &rig{t: t, dir: t.TempDir(), name: fmt.Sprintf("nofxd-test-%d", os.Getpid())}
	if err := errors.Join(os.Mkdir(r.path("plugins"), 0o755), os.WriteFile(r.path("token"), []byte("nofx_w_x\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	r.plugin("local") // only in name: its schema refuses a state_dir
	r.plugin("one")
	r.plugin("two")
	r.configure(`{one: {message: first}}`)
	r.cmd = r.command()
	r.cmd.Stderr = &r.log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.cmd.Wait() }()
	t.Cleanup(func() {
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("nofxd: %v\n%s", err, r.log.String())
			}
		case <-time.After(30 * time.Second):
			_ = r.cmd.Process.Kill()
			t.Errorf("nofxd does not end\n%s", r.log.String())
		}
		r.configure("{}")
		if out, err := r.command("purge").CombinedOutput(); err != nil {
			t.Errorf("purge: %v\n%s", err, out)
		}
	})
	r.until("driver one runs", func() bool { return r.pid("one") != "" })
	r.metric(`nofx_plugin_healthy{driver="one"} 1`)
	r.metric(`nofx_plugin_refused_total{driver="local",reason="configuration"} 1`)
	r.metric(`nofx_plugin_quarantined{driver="local"} 1`)
	one := r.pid("one")

	r.configure(`{one: {message: second}, two: {}}`)
	r.hangup()
	r.logged("plugin configured anew")
	r.metric(`nofx_plugin_healthy{driver="two"} 1`)

	r.configure(`{one: {mesage: third}, two: {}}`)
	r.hangup()
	r.logged("drivers.one: the configuration: ")
	r.logged(`mesage`)

	r.configure(`{one: [`)
	r.hangup()
	r.logged("nofxd.yaml: yaml: ")

	r.configure(`{one: {message: second}}`)
	r.hangup()
	r.until("driver two is stopped", func() bool { return r.pid("two") == "" })
	r.until("its gauge is gone", func() bool { return !strings.Contains(r.metrics(), `nofx_plugin_healthy{driver="two"}`) })
	if now := r.pid("one"); now != one {
		t.Errorf("driver one was restarted: %s, %s", one, now)
	}
}
