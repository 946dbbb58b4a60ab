package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// able is what a driver says that can do all that a plain step needs.
var able = []string{"cap.cpu", "cap.memory", "cap.pids", "cap.walltime", "cap.output", "net.none", "host", "files", "lease"}

func offering(name string, capabilities ...string) wire.DriverInfo {
	return wire.DriverInfo{Name: name, Version: "1", Healthy: true, Capabilities: capabilities}
}

// A step may name a driver that no list of ours has, once a worker offers it.
func TestThirdPartyDriver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const steps = `[{"name":"a","tool":"test:echo","driver":"firework"},{"name":"b","tool":"test:echo","driver":"firework"}]`
	resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g","steps":`+steps+`}}`))
	if resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(raw), "use one of container, e2b, local, modal, vercel") {
		t.Fatalf("before a worker has it: %d %s", resp.StatusCode, raw)
	}
	w := r.worker("host", offering("firework", able...), offering("kettle", able...))
	run := r.submit(steps)
	resp, raw = r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo","driver":"x"}]}}`))
	if resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(raw), "use one of container, e2b, firework, kettle, local, modal, vercel") {
		t.Errorf("another name: %d %s", resp.StatusCode, raw)
	}
	// The driver's workspaces are folders of its host: a run stays on one.
	w.finish(w.one(), exit(0))
	if other := r.worker("other", offering("firework", able...)); len(other.claim(1, 0)) != 0 {
		t.Error("the run's second step went to a host that has not its workspace")
	}
	w.finish(w.one(), exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded || d.Steps[0].Driver != "firework" {
		t.Errorf("%+v", d)
	}
}
