package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"nofx":                  func() { os.Exit(run()) },
		"nofx-driver-forgetful": func() { servePlugin("forgetful", memdriver.AllCapabilities()) },
		"nofx-driver-lesser":    func() { servePlugin("lesser", driver.Capabilities{driver.CapFiles, driver.CapMultiExec}) },
		"nofx-driver-crash": func() {
			fmt.Fprintln(os.Stderr, "no license found")
			os.Exit(9)
		},
	})
}

// servePlugin serves the in-memory driver, whose sandboxes go with its process
// whatever it declares.
func servePlugin(name string, caps driver.Capabilities) {
	driverrpc.Serve(memdriver.New(memdriver.NewWorld(), memdriver.Options{Name: name, Capabilities: caps}))
}

// The scripts run the real command against an API over real HTTPS that keeps
// its runs in memory and does what a step's words say; see fakeapi_test.go.
func TestScripts(t *testing.T) {
	t.Parallel()
	// What the commands do at a hangup must not depend on who runs the tests: a
	// child begins with the usual meaning of signals that its parent is told of,
	// and with those ignored that are, as below nohup.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangup) })
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			api, err := newFakeAPI(env.WorkDir)
			if err != nil {
				return err
			}
			env.Defer(api.close)
			env.Setenv("NOFX_API_URL", api.url)
			env.Setenv("NOFX_API_KEY", fakeKey)
			env.Setenv("NOFX_CA_FILE", api.caFile)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status},
	})
}

// status N COMMAND... runs a command and wants its exit code to be N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("status %s: %v", args[0], err)
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
