package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/internal/posture"
	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/plugins/contained"
)

var (
	supervisorPath string
	posturePath    string // the probe of package posture
	docker         *testdocker.Engine
)

func TestMain(m *testing.M) {
	signal.Ignore(syscall.SIGHUP) // as under nohup: who starts a driver does not show in its sandboxes
	code := 1
	defer func() { os.Exit(code) }()
	dir, err := os.MkdirTemp("", "nofx-container")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer os.RemoveAll(dir)
	out, err := exec.Command("make", "-s", "-C", "../supervisor", "BIN="+dir).CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "building the supervisor: %v\n%s", err, out)
		return
	}
	supervisorPath = filepath.Join(dir, "nofx-supervisor")
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "nofx-egress"), "../egress/cmd/nofx-egress")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the gateway: %v\n%s", err, out)
		return
	}
	posturePath = filepath.Join(dir, "posture")
	if err := posture.Build(context.Background(), posturePath); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	if out, err := exec.Command("make", "-s", "-C", "../..", "runsc").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building runsc: %v\n%s", err, out)
		return
	}
	engine, err := engineConfig()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	if docker, err = testdocker.StartWith(context.Background(), dir, engine); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	code = m.Run()
	left, err := docker.Containers(context.Background())
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%d containers are left", len(left))
	}
	if err = errors.Join(err, docker.Stop(), goleak.Find()); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
}

// engineConfig is a daemon.json with gVisor's runtime as we need it, "runsc",
// and as one finds it in its own documents, "runsc-plain".
func engineConfig() ([]byte, error) {
	runsc, err := filepath.Abs("../../bin/runsc")
	if err != nil {
		return nil, err
	}
	type runtime struct {
		Path string   `json:"path"`
		Args []string `json:"runtimeArgs,omitempty"`
	}
	return json.Marshal(map[string]any{"runtimes": map[string]runtime{
		"runsc": {runsc, contained.RunscFlags[:]}, "runsc-plain": {Path: runsc},
	}})
}

// config is a configuration with a state folder of the test's own.
func config(t testing.TB, change ...func(*Config)) json.RawMessage {
	t.Helper()
	c := Config{
		Host: docker.Host(), StateDir: filepath.Join(t.TempDir(), "state"), Supervisor: supervisorPath,
		Image: testdocker.Image, TmpMB: 64, ShmMB: 16, MaxOutputMB: 512,
	}
	for _, f := range change {
		f(&c)
	}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func newDriver() *Driver { return New(slog.New(slog.DiscardHandler)) }
