package pluginhost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	plugin "github.com/hashicorp/go-plugin"
	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
	"github.com/nofx-run/nofx/sdk/step"
)

// The test binary is every plugin as well: under the name nofx-driver-<name> it
// serves the in-memory driver, with the fault that <name> stands for.
func TestMain(m *testing.M) {
	if name, ok := strings.CutPrefix(filepath.Base(os.Args[0]), prefix); ok {
		servePlugin(name)
		return
	}
	if socket := os.Getenv(bareEnv); socket != "" {
		serveBare(socket)
		return
	}
	if base := os.Getenv(hostEnv); base != "" {
		runHostProcess(base)
		return
	}
	goleak.VerifyTestMain(m)
}

func servePlugin(name string) {
	d := faulty{Driver: memdriver.New(memdriver.NewWorld(), memdriver.Options{Name: name}), fault: name, configured: new(atomic.Bool), able: new(atomic.Bool)}
	switch name {
	case "crash":
		fmt.Fprintln(os.Stderr, "[ERROR] I cannot live like this")
		os.Exit(3)
	case "silent": // never says that it is there
		select {}
	case "nonsense":
		fmt.Println("1|1|tcp|127.0.0.1:1|grpc|")
		select {}
	case "crafted":
		for _, line := range []string{`{"@message":1}`, `{"@message":null,"@level":[]}`, `{"@level":"warn","@message":"fine","k":"v"}`, "\x00\xff{", "panic: not really"} {
			fmt.Fprintln(os.Stderr, line)
		}
	case "flood":
		stderr := os.Stderr
		go func() {
			line := []byte(strings.Repeat("flood ", 200) + "\n")
			for {
				if _, err := stderr.Write(line); err != nil {
					return
				}
			}
		}()
	case "longline":
		stderr := os.Stderr
		go func() {
			block := []byte(strings.Repeat("x", 1<<20))
			for {
				if _, err := stderr.Write(block); err != nil {
					return
				}
			}
		}()
	case "huge", "hugestart": // does not use our server either, whose messages are bounded
		plugin.Serve(&plugin.ServeConfig{
			HandshakeConfig: driverrpc.Handshake(), VersionedPlugins: driverrpc.Plugins(d), GRPCServer: plugin.DefaultGRPCServer,
		})
		return
	case "clinging": // does not use our Serve, and so does not watch its parent
		plugin.Serve(&plugin.ServeConfig{
			HandshakeConfig: driverrpc.Handshake(), VersionedPlugins: driverrpc.Plugins(d), GRPCServer: plugin.DefaultGRPCServer,
		})
		return
	case "leaky": // a child of its own holds its pipes
		cmd := exec.Command("sleep", "20")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			panic(err)
		}
	}
	if versions, ok := protocols[name]; ok {
		serveVersions(counting{d}, versions)
		return
	}
	if strings.HasPrefix(name, "metered") {
		driverrpc.Serve(counting{d})
		return
	}
	driverrpc.Serve(d)
	if name == "stubborn" {
		select {} // asked to end, it stays
	}
}

// faulty is the in-memory driver with a fault.
type faulty struct {
	*memdriver.Driver
	fault      string
	configured *atomic.Bool
	able       *atomic.Bool
}

func (f faulty) Configure(ctx context.Context, config json.RawMessage) error {
	defer f.configured.Store(true)
	switch f.fault {
	case "loud": // through the connection, and past it, with a line that is too long for anybody
		fmt.Println("said on stdout")
		fmt.Fprintln(os.Stderr, "said on stderr")
		if _, err := syscall.Write(1, []byte(strings.Repeat("x", 1<<20)+"\nsaid past it\n")); err != nil {
			return err
		}
	}
	if f.fault == "stuck" && f.configured.Load() {
		select {} // takes one configuration and no other, not even that one again
	}
	if f.fault == "picky" && strings.Contains(string(config), "no") {
		_ = f.Driver.Configure(ctx, json.RawMessage(`{"message":"half way"}`))
		return step.Errorf(step.KindInvalid, "message: I do not take no")
	}
	return f.Driver.Configure(ctx, config)
}

func (f faulty) Describe(ctx context.Context) (driver.Description, error) {
	if f.fault == "dumb" {
		select {}
	}
	d, err := f.Driver.Describe(ctx)
	switch f.fault {
	case "late", "latest":
		if f.able.Load() {
			d.Capabilities = append(d.Capabilities, "cap.late")
		}
	case "envy":
		d.Warnings = os.Environ()
	case "warning":
		if f.configured.Load() {
			d.Warnings = []string{"this configuration is for development"}
		}
	case "hugestart":
		d.Warnings = []string{strings.Repeat("x", 5<<20)}
	case "verbose":
		d.Version = "1\x00" + strings.Repeat("0", 3000)
		d.Warnings = []string{"a\nb", strings.Repeat("w", 1<<20)}
		for n := range 500 {
			d.Capabilities = append(d.Capabilities, driver.Capability(fmt.Sprintf("cap.%d", n)))
		}
	case "liar":
		d.Name = "somebody-else"
	case "circle":
		d.ConfigSchema = json.RawMessage(`{"allOf": [{"$ref": "#"}]}`)
	case "schema":
		d.ConfigSchema = json.RawMessage(`{"type": 7}`)
	}
	return d, err
}

// Create of "mortal" ends the process: of the first one, and of every one where
// the sandbox is called deadly.
func (f faulty) Create(ctx context.Context, spec driver.Spec) (driver.Handle, error) {
	if f.fault == "mortal" && strings.HasPrefix(spec.ID, "once") {
		died, err := os.OpenFile(filepath.Join(filepath.Dir(filepath.Dir(os.Args[0])), spec.ID), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_ = died.Close()
			os.Exit(3)
		}
	}
	if f.fault == "mortal" && spec.ID == "deadly" {
		os.Exit(3)
	}
	if f.fault == "mortal" && spec.ID == "away" {
		return driver.Handle{}, step.Errorf(step.KindUnavailable, "what I make it with is away")
	}
	return f.Driver.Create(ctx, spec)
}

func (f faulty) Stats(ctx context.Context, h driver.Handle) (driver.Stats, error) {
	if f.fault == "hang" {
		select {} // not even the end of its context moves it
	}
	if f.fault == "hog" {
		for kept := [][]byte(nil); ; { // all the memory that there is
			kept = append(kept, bytes.Repeat([]byte{1}, 1<<20))
			runtime.KeepAlive(kept)
		}
	}
	return f.Driver.Stats(ctx, h)
}

func (f faulty) List(ctx context.Context, owner string) ([]driver.Listed, error) {
	if f.fault == "huge" {
		return []driver.Listed{{Handle: driver.Handle{Driver: f.fault, ID: "box", Data: make([]byte, 5<<20)}}}, nil
	}
	return f.Driver.List(ctx, owner)
}

func (f faulty) Health(ctx context.Context, sink func(driver.Health) error) error {
	if f.fault == "mute" {
		if err := sink(driver.Health{Healthy: true}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	if f.fault == "chatty" {
		for n := 0; ; n++ {
			if err := sink(driver.Health{Healthy: n%2 == 0, Message: fmt.Sprint(n)}); err != nil {
				return err
			}
		}
	}
	if f.fault == "latest" { // it came just after the configuration
		f.able.Store(true)
	}
	if f.fault == "late" { // what it works with comes later, and can more than nothing
		if err := sink(driver.Health{Healthy: false, Message: "it is not up yet"}); err != nil {
			return err
		}
		f.able.Store(true)
		if err := sink(driver.Health{Healthy: true}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	if f.fault == "sick" {
		if err := sink(driver.Health{Healthy: false, Message: "I do not feel well"}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return f.Driver.Health(ctx, sink)
}
