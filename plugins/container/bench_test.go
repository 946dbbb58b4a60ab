package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/internal/testhost"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/bench"
)

// BenchmarkContainer is one fresh container of each kind, in turns: made, one
// program in it, its end told, and nothing left. container is what the daemon
// sees of this driver, engine-api the same calls to the engine's API without
// it, docker-run the engine's own client; all with the same flags.
func BenchmarkContainer(b *testing.B) {
	d := newDriver()
	b.Cleanup(d.Close)
	c := drivertest.Connect(b, d)
	if err := c.Configure(b.Context(), config(b)); err != nil {
		b.Fatal(err)
	}
	spec := driver.Spec{Tags: driver.Tags{Owner: "bench", ID: "x"}, Network: step.NetworkNone, Until: driver.After(time.Hour), Resources: step.Resources{MemoryMB: 512, Pids: 64}}
	testhost.New().Fill(b, &spec)
	n := 0
	ours := func(ioMBs int64) func(context.Context) error {
		return func(ctx context.Context) error {
			n++
			s := spec
			s.ID, s.Resources.IOMBs = fmt.Sprint("bench-", n), ioMBs
			return oneStep(ctx, c, s)
		}
	}
	workspace := b.TempDir()
	const lacks = "the step's user, seccomp filter, output and exit status kept by a supervisor"
	standing := bench.Turns{Warmup: 3, Rounds: 50, Rest: 20 * time.Millisecond}.Run(b,
		bench.Contender{Name: "container", Run: ours(0)},
		bench.Contender{Name: "container-io-cap", Run: ours(500)},
		bench.Contender{Name: "engine-api", Lacks: lacks, Run: engineCalls(b, workspace)},
		bench.Contender{Name: "docker-run", Lacks: lacks, Run: func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, "/usr/bin/docker", "-H", docker.Host(), "run", "--rm", "--network", "none", "--read-only",
				"--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "512m", "--memory-swap", "512m", "--pids-limit", "64",
				"--ipc", "private", "--cgroupns", "private", "--tmpfs", "/tmp", "--tmpfs", "/home/step", "--user", "1900000001",
				"-v", workspace+":/workspace", testdocker.Image, "/bin/true")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}},
	)
	standing.Report()
	standing.Ratio("container", "engine-api")
	standing.Ratio("container", "docker-run")
}

// engineCalls makes a container by the calls that the driver makes, and waits
// for its end, over one connection that is kept.
func engineCalls(b *testing.B, workspace string) func(context.Context) error {
	b.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", docker.Socket())
	}}
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	call := func(ctx context.Context, method, target string, body, into any) error {
		var in io.Reader
		if body != nil {
			data, err := json.Marshal(body)
			if err != nil {
				return err
			}
			in = bytes.NewReader(data)
		}
		req, err := http.NewRequestWithContext(ctx, method, "http://engine/v1.41/containers/"+target, in)
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode >= http.StatusMultipleChoices {
			err = fmt.Errorf("%s %s: %s: %s", method, target, resp.Status, text)
		}
		if err != nil || into == nil {
			return err
		}
		return json.Unmarshal(text, into)
	}
	type object = map[string]any
	spec := object{
		"Image": testdocker.Image, "Cmd": []string{"/bin/true"}, "User": "1900000001", "NetworkDisabled": true,
		"HostConfig": object{
			"NetworkMode": "none", "IpcMode": "private", "CgroupnsMode": "private", "ReadonlyRootfs": true, "CapDrop": []string{"ALL"},
			"SecurityOpt": []string{"no-new-privileges"}, "Memory": 512 << 20, "MemorySwap": 512 << 20, "PidsLimit": 64, "LogConfig": object{"Type": "none"},
			"Tmpfs":  object{"/tmp": "", "/home/step": ""},
			"Mounts": []object{{"Type": "bind", "Source": workspace, "Target": "/workspace"}},
		},
	}
	return func(ctx context.Context) error {
		var made struct{ Id string } //nolint:revive // the engine's spelling
		if err := call(ctx, http.MethodPost, "create", spec, &made); err != nil {
			return err
		}
		err := call(ctx, http.MethodPost, made.Id+"/start", nil, nil)
		if err == nil {
			err = call(ctx, http.MethodGet, made.Id+"/json", nil, nil)
		}
		var end struct{ StatusCode int }
		if err == nil {
			err = call(ctx, http.MethodPost, made.Id+"/wait", nil, &end)
		}
		if err == nil && end.StatusCode != 0 {
			err = fmt.Errorf("exit code %d", end.StatusCode)
		}
		return errors.Join(err, call(ctx, http.MethodDelete, made.Id+"?force=1&v=1", nil, nil))
	}
}

func oneStep(ctx context.Context, d driver.Driver, spec driver.Spec) error {
	h, err := d.Create(ctx, spec)
	if err != nil {
		return err
	}
	code := -1
	err = d.Exec(ctx, h, driver.ExecSpec{ID: "main", Argv: []string{"/bin/true"}, Env: []string{"PATH=/bin"}}, func(e driver.ExecEvent) error {
		if e.Exit != nil {
			code = e.Exit.Code
		}
		return nil
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	return errors.Join(err, d.Destroy(ctx, h))
}
