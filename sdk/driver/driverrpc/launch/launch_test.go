package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	plugin "github.com/hashicorp/go-plugin"
	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
)

const prefix = "nofx-driver-"

// The test binary is every plugin as well, with the fault that its name says.
func TestMain(m *testing.M) {
	name, ok := strings.CutPrefix(filepath.Base(os.Args[0]), prefix)
	if !ok {
		goleak.VerifyTestMain(m)
		return
	}
	switch name {
	case "crash":
		fmt.Fprintln(os.Stderr, "first line")
		fmt.Fprintln(os.Stderr, "I cannot live like this")
		os.Exit(3)
	case "silent":
		fmt.Fprintln(os.Stderr, "thinking")
		select {}
	case "nonsense":
		fmt.Println("hello, I am no plugin")
		select {}
	case "tomorrow":
		fmt.Println("1|3|unix|./plugin|grpc|")
		select {}
	case "tomorrows":
		plugin.Serve(&plugin.ServeConfig{
			HandshakeConfig: driverrpc.Handshake(), GRPCServer: plugin.DefaultGRPCServer,
			VersionedPlugins: driverrpc.Plugins(memdriver.New(memdriver.NewWorld(), memdriver.Options{Name: name}), 3, 4),
		})
		return
	case "elsewhere":
		fmt.Println("1|1|tcp|127.0.0.1:1|grpc|")
		select {}
	}
	driverrpc.Serve(envy{memdriver.New(memdriver.NewWorld(), memdriver.Options{Name: name})})
	if name == "stubborn" {
		select {}
	}
}

// envy shows its environment.
type envy struct{ *memdriver.Driver }

func (e envy) Describe(ctx context.Context) (driver.Description, error) {
	d, err := e.Driver.Describe(ctx)
	d.Warnings = os.Environ()
	return d, err
}

// install makes the test binary a plugin of that name.
func install(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), prefix+name)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStartAndStop(t *testing.T) {
	t.Setenv("NOFX_LAUNCH_SECRET", "hunter2")
	p, err := Start(t.Context(), Options{Path: install(t, "good")})
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Driver().Describe(t.Context())
	if err != nil || d.Name != "good" {
		t.Errorf("describe: %+v, %v", d, err)
	}
	if slices.ContainsFunc(d.Warnings, func(v string) bool { return strings.Contains(v, "hunter2") }) {
		t.Error("the plugin sees our environment")
	}
	if p.PID() == 0 || p.Ended() != "" {
		t.Errorf("pid %d, ended %q", p.PID(), p.Ended())
	}
	if !p.Stop() {
		t.Error("it did not end by itself")
	}
	if _, err := os.Stat(p.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder is left: %v", err)
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	p, err := Start(t.Context(), Options{Path: install(t, "good")})
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	p.Kill()
	if got := p.Ended(); got != "signal: killed" {
		t.Errorf("it ended by %q", got)
	}
	if _, err := p.Driver().Describe(t.Context()); err == nil {
		t.Error("a killed plugin answers")
	}
}

func TestStubborn(t *testing.T) {
	t.Parallel()
	p, err := Start(t.Context(), Options{Path: install(t, "stubborn"), Stop: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if p.Stop() {
		t.Error("it is said to have ended by itself")
	}
}

func TestCannotStart(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ ended, stderr string }{
		"crash":     {"exit status 3", "I cannot live like this"},
		"silent":    {"", "thinking"},
		"nonsense":  {},
		"elsewhere": {},
		"tomorrow":  {}, // where nobody listens
		"tomorrows": {},
	} {
		_, err := Start(t.Context(), Options{Path: install(t, name), Wait: time.Second})
		var e *StartError
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		theirs := map[string]string{"tomorrow": "3", "tomorrows": "3 and 4"}[name]
		if said := strings.Contains(e.Error(), "the plugin speaks "+theirs+", this program 1 and 2"); said != (theirs != "") {
			t.Errorf("%s: %v", name, e)
		}
		if want.ended != "" && e.Ended != want.ended || !strings.Contains(strings.Join(e.Stderr, "\n"), want.stderr) {
			t.Errorf("%s: %+v", name, e)
		}
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{plain, plain + "-not-there", t.TempDir()} {
		if _, err := Start(t.Context(), Options{Path: path}); err == nil {
			t.Errorf("%s started", path)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, Options{Path: install(t, "silent")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a start whose context ends: %v", err)
	}
}
