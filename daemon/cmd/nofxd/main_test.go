package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
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

	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
)

// nofxdEnv makes the test binary nofxd.
const nofxdEnv = "NOFX_TEST_NOFXD"

// The test binary is nofxd as well, and as nofx-driver-<name> a plugin.
func TestMain(m *testing.M) {
	if name, ok := strings.CutPrefix(filepath.Base(os.Args[0]), "nofx-driver-"); ok {
		driverrpc.Serve(counting{memdriver.New(memdriver.NewWorld(), memdriver.Options{Name: name}), name})
		return
	}
	if os.Getenv(nofxdEnv) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// rig is a running nofxd whose API is away.
type rig struct {
	t     *testing.T
	dir   string
	name  string
	base  int    // of its uids
	trust string // the line of the configuration about signatures
	log   logBuffer
	cmd   *exec.Cmd
}

func newRig(t *testing.T, name string, base int) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), name: fmt.Sprintf("nofxd-test-%s-%d", name, os.Getpid()), base: base, trust: "allow_unsigned_plugins: true"}
	if err := errors.Join(os.Mkdir(r.path("plugins"), 0o755), os.WriteFile(r.path("token"), []byte("nofx_w_x\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs nofxd until the end of the test.
func (r *rig) start() {
	r.t.Helper()
	r.cmd = r.command()
	r.cmd.Stderr = &r.log
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.cmd.Wait() }()
	r.t.Cleanup(func() {
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				r.t.Errorf("nofxd: %v\n%s", err, r.log.String())
			}
		case <-time.After(30 * time.Second):
			_ = r.cmd.Process.Kill()
			r.t.Errorf("nofxd does not end\n%s", r.log.String())
		}
		r.configure("{}")
		if out, err := r.command("purge").CombinedOutput(); err != nil {
			r.t.Errorf("purge: %v\n%s", err, out)
		}
	})
	r.until("the metrics are served", func() bool { _, err := os.Stat(r.path("data", "metrics.addr")); return err == nil })
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
		"cgroup_root: %s\nuid_base: %d\nuid_count: 65536\n%s\ndrain_timeout: 1s\ndrivers: %s\n",
		r.path("token"), r.path("data"), r.path("plugins"), r.path("run"), r.name, r.name, r.base, r.trust, drivers)
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

// plugin installs the test binary, with something at its end.
func (r *rig) plugin(name string, extra ...string) {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		r.t.Fatal(err)
	}
	data = append(data, strings.Join(extra, "")...)
	tmp := r.path("plugins", "new")
	if err := errors.Join(os.WriteFile(tmp, data, 0o755), os.Rename(tmp, r.path("plugins", "nofx-driver-"+name))); err != nil {
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
	r := newRig(t, "hangup", 2070000000)
	r.plugin("local") // only in name: its schema refuses a state_dir
	r.plugin("one")
	r.plugin("two")
	r.configure(`{one: {message: first}}`)
	r.start()
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

// sign vouches for the plugins of the folder as they are.
func (r *rig) sign(key ed25519.PrivateKey, names ...string) {
	r.t.Helper()
	var plugins []pluginmanifest.Plugin
	for _, name := range names {
		data, err := os.ReadFile(r.path("plugins", pluginmanifest.Prefix+name))
		if err != nil {
			r.t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		plugins = append(plugins, pluginmanifest.Plugin{Name: name, Version: "1", SHA256: hex.EncodeToString(sum[:]), ProtocolVersions: []int{1}})
	}
	if err := pluginmanifest.Write(r.path("plugins"), plugins, key, time.Now()); err != nil {
		r.t.Fatal(err)
	}
}

// With a key nofxd runs what is signed, and nothing else, at the start and at
// an upgrade.
func TestSignedPlugins(t *testing.T) {
	t.Parallel()
	r := newRig(t, "signed", 2070065536)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path("plugins.pub"), pluginmanifest.PublicOf(key).Encode(), 0o644); err != nil {
		t.Fatal(err)
	}
	r.trust = "plugin_key_file: " + r.path("plugins.pub")
	r.plugin("one")
	r.sign(key, "one")
	r.plugin("two")
	r.configure("{one: {}, two: {}}")
	r.start()
	r.metric(`nofx_plugin_healthy{driver="one"} 1`)
	r.metric(`nofx_plugin_refused_total{driver="two",reason="not_in_manifest"} 1`)
	one := r.pid("one")

	// A swapped file is not used, whoever tells the daemon to reload.
	r.plugin("one", "x")
	r.hangup()
	r.metric(`nofx_plugin_refused_total{driver="one",reason="swapped"} 1`)
	r.metric(`nofx_plugin_healthy{driver="one"} 1`)
	if now := r.pid("one"); now != one {
		t.Errorf("the process was replaced: %s, %s", one, now)
	}
	r.sign(key, "one", "two")
	r.hangup()
	r.until("driver one is replaced", func() bool { return r.pid("one") != one })
	r.metric(`nofx_plugin_healthy{driver="two"} 1`)
}
