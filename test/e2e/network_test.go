package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// Steps with a network, through the command line, on a host in a world without
// an uplink: the names and rules of a plan reach the gateway, and what nobody
// may call is refused whatever the step asks for.
func TestNetwork(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	w.Names(t, map[string][]string{"registry.npmjs.org": {testnet.Server}, "evil.example.net": {testnet.OtherServer}})
	for _, a := range []string{testnet.Server + ":443", testnet.Server + ":5000", testnet.OtherServer + ":5000", testnet.Metadata + ":80", testnet.Private + ":5432"} {
		w.Greeter(t, a)
	}
	dir := t.TempDir()
	docker, err := testdocker.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := harness.StartIn(t, w.Host(), []string{"--docker", strings.TrimPrefix(docker.Host(), "unix://"), "--image", testdocker.Image, "--resolver", testnet.DNS + ":53"})

	call := func(host, port string) []string {
		return []string{"--tool", "bash", "--", "exec 3<>/dev/tcp/" + host + "/" + port + " && head -n 1 <&3"}
	}
	exec := func(network []string, command []string) harness.Result {
		t.Helper()
		return s.Nofx("", append(append([]string{"exec", "--json", "--timeout", "30s"}, network...), command...)...)
	}
	if r := exec([]string{"--network", "allow", "--allow", "npm", "--allow", testnet.Server + ":5000"}, call(testnet.Server, "5000")); r.Code != 0 || r.Stdout != "hello from "+testnet.Server+":5000\n" {
		t.Errorf("a rule: %+v", r)
	}
	// The preset leads to the name, which leads to the address; what the client
	// says must be TLS for that name, and this is not.
	r := exec([]string{"--network", "allow", "--allow", "npm"}, []string{"--tool", "bash", "--", "getent hosts registry.npmjs.org; exec 3<>/dev/tcp/registry.npmjs.org/443 && echo x >&3 && head -n 1 <&3"})
	if !strings.Contains(r.Stdout, testnet.Server) || strings.Contains(r.Stdout, "hello") {
		t.Errorf("a preset: %+v", r)
	}
	if r := exec([]string{"--network", "open"}, call(testnet.OtherServer, "5000")); r.Code != 0 || r.Stdout != "hello from "+testnet.OtherServer+":5000\n" {
		t.Errorf("open: %+v", r)
	}
	for what, r := range map[string]harness.Result{
		"none":               exec(nil, call(testnet.Server, "5000")),
		"not in the list":    exec([]string{"--network", "allow", "--allow", "npm"}, call(testnet.OtherServer, "5000")),
		"another name":       exec([]string{"--network", "allow", "--allow", "npm"}, call("evil.example.net", "5000")),
		"metadata":           exec([]string{"--network", "open"}, call(testnet.Metadata, "80")),
		"a private address":  exec([]string{"--network", "open"}, call(testnet.Private, "5432")),
		"private and listed": exec([]string{"--network", "allow", "--allow", testnet.Private + ":5432"}, call(testnet.Private, "5432")),
	} {
		if r.Code != 1 || r.Stdout != "" {
			t.Errorf("%s: %+v", what, r)
		}
	}
	r = exec([]string{"--network", "open"}, call(testnet.Metadata, "80"))
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	var v step.Verdict
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &v); err != nil || !strings.Contains(v.Message, testnet.Metadata) {
		t.Errorf("the verdict does not say what was refused: %+v", r)
	}

	// The control API is on the host's loopback.
	port := s.ClientEnv()["NOFX_API_URL"]
	port = port[strings.LastIndex(port, ":")+1:]
	for _, host := range []string{"127.0.0.1", testnet.HostAddress} {
		if r := exec([]string{"--network", "open"}, call(host, port)); r.Code != 1 || r.Stdout != "" {
			t.Errorf("the control API at %s: %+v", host, r)
		}
	}

	r = s.Nofx("", "exec", "--driver", "container", "--network", "allow", "--allow", testnet.Server+":5000", "--", "/bin/sh", "-c", "echo | nc -w 5 "+testnet.Server+" 5000 | head -n 1")
	if r.Code != 0 || r.Stdout != "hello from "+testnet.Server+":5000\n" {
		t.Errorf("in a container: %+v", r)
	}
	for _, args := range [][]string{
		{"--network", "allow", "--allow", "nosuch"}, {"--network", "allow", "--allow", "*.com"}, {"--network", "allow"}, {"--allow", "npm"},
	} {
		if r := s.Nofx("", append(append([]string{"exec"}, args...), "--", "/bin/true")...); r.Code != 125 || r.Stderr == "" {
			t.Errorf("%v: %+v", args, r)
		}
	}

	// The tenant's ceiling, and its exception.
	if err := s.Admin("tenants", "network", "--tenant", "default", "--most", "open", "--private", testnet.Private+":5432"); err != nil {
		t.Fatal(err)
	}
	if r := exec([]string{"--network", "allow", "--allow", testnet.Private + ":5432"}, call(testnet.Private, "5432")); r.Code != 0 {
		t.Errorf("with the tenant's exception: %+v", r)
	}
	if err := s.Admin("tenants", "network", "--tenant", "default", "--most", "allow"); err != nil {
		t.Fatal(err)
	}
	if r := exec([]string{"--network", "open"}, call(testnet.Server, "5000")); r.Code != 125 || !strings.Contains(r.Stderr, "tenant's policy") {
		t.Errorf("above the ceiling: %+v", r)
	}
	if err := s.Admin("tenants", "network", "--tenant", "nosuch", "--most", "allow"); err == nil {
		t.Error("a tenant that is not there")
	}
}
