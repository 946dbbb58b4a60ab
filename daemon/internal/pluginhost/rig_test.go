package pluginhost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// rig is a running host.
type rig struct {
	*Host
	cfg  Config
	log  *logBuffer
	stop func() // ends it and waits
}

// start runs a host with the plugins of these names.
func start(t *testing.T, names []string, change ...func(*Config)) *rig {
	t.Helper()
	base := t.TempDir()
	log := &logBuffer{}
	cfg := Config{
		Dir: filepath.Join(base, "plugins"), SocketDir: filepath.Join(base, "sockets"), PidDir: filepath.Join(base, "run"),
		AllowUnsigned: true, QuarantineAfter: 3, Configs: configsOf(names...),
		Log: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if err := os.Mkdir(cfg.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		install(t, cfg.Dir, name, nil)
	}
	for _, f := range change {
		f(&cfg)
	}
	return run(t, cfg, log)
}

// configsOf configures these drivers, with nothing.
func configsOf(names ...string) map[string]json.RawMessage {
	all := map[string]json.RawMessage{}
	for _, name := range names {
		all[name] = nil
	}
	return all
}

func run(t *testing.T, cfg Config, log *logBuffer) *rig {
	t.Helper()
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the host does not end")
		}
	})
	t.Cleanup(stop)
	return &rig{Host: h, cfg: cfg, log: log, stop: stop}
}

// install puts the test binary into dir as a plugin, with extra bytes at its end.
func install(t *testing.T, dir, name string, extra []byte) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	tmp, err := os.CreateTemp(dir, "new")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(tmp, in); err != nil {
		t.Fatal(err)
	}
	if _, err := tmp.Write(extra); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tmp.Chmod(0o755), tmp.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp.Name(), filepath.Join(dir, prefix+name)); err != nil {
		t.Fatal(err)
	}
}

func bg(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// infoOf waits until the driver's info is as f wants it.
func (r *rig) infoOf(t *testing.T, name, what string, f func(wire.DriverInfo) bool) wire.DriverInfo {
	t.Helper()
	ctx := bg(t)
	for {
		var last wire.DriverInfo
		for _, i := range r.Infos() {
			if i.Name == name {
				if last = i; f(i) {
					return i
				}
			}
		}
		select {
		case <-r.Changed():
		case <-ctx.Done():
			t.Fatalf("driver %s did not become %s; it is %+v", name, what, last)
		}
	}
}

func healthy(i wire.DriverInfo) bool { return i.Healthy }

// pid reads a plugin's pid file.
func (r *rig) pid(t *testing.T, name string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.cfg.PidDir, prefix+name+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// eventually waits for f.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx := bg(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it did not come about that %s", what)
		}
	}
}

// echo runs a step in the driver, and again while the plugin is not there.
func (r *rig) echo(t *testing.T, name string) {
	t.Helper()
	d, err := r.Driver(name)
	if err != nil {
		t.Fatal(err)
	}
	ctx := bg(t)
	for i := 0; ; i++ {
		err := echo(ctx, d, fmt.Sprintf("box-%d", i))
		if err == nil {
			return
		}
		if !step.Is(err, step.KindUnavailable) && !step.Is(err, step.KindNotFound) || ctx.Err() != nil {
			t.Fatalf("a step in %s: %v", name, err)
		}
	}
}

func echo(ctx context.Context, d driver.Driver, id string) error {
	h, err := d.Create(ctx, driver.Spec{ID: id, Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	err = d.Exec(ctx, h, driver.ExecSpec{ID: "main", Argv: []string{"echo", id}}, func(e driver.ExecEvent) error {
		out.Write(e.Data)
		return nil
	})
	if err != nil {
		return err
	}
	if out.String() != id+"\n" {
		return fmt.Errorf("it said %q", out.String())
	}
	return d.Destroy(ctx, h)
}

// logBuffer is a log that a test can read.
type logBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// until waits for the log to hold text.
func (l *logBuffer) until(t *testing.T, text string) {
	t.Helper()
	ctx := bg(t)
	for {
		l.mu.Lock()
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		found, changed := strings.Contains(l.b.String(), text), l.changed
		l.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("the log does not say %q", text)
		}
	}
}
