package local

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// levels runs a test with the host's kernel and with one of the sandbox's own.
func levels(t *testing.T, f func(t *testing.T, level string)) {
	t.Helper()
	for _, level := range []string{driver.IsolationNamespace, driver.IsolationGVisor} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			f(t, level)
		})
	}
}

// netBox makes a sandbox whose host is that of a world.
func netBox(t *testing.T, w *testnet.Net, level string, n step.Network, e step.Egress) *box {
	t.Helper()
	d := New()
	var c Config
	if err := json.Unmarshal(config(t), &c); err != nil {
		t.Fatal(err)
	}
	c.Resolvers = []string{testnet.DNS + ":53"}
	if level == driver.IsolationGVisor {
		withGVisor(&c)
	}
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Configure(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	s := driver.Spec{ID: "box-" + random(), Tags: driver.Tags{Owner: "test", ID: "x"}, Network: n, Egress: e, Isolation: level}
	newHost().Fill(t, &s)
	h, err := testnet.Within(t, w.Host(), func() (driver.Handle, error) { return d.Create(t.Context(), s) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := d.Destroy(ctx, h); err != nil {
			t.Errorf("destroy: %v", err)
		}
	})
	return &box{d, h, s}
}

// bash runs a line of bash, whose shell can call.
func (b *box) bash(t *testing.T, script string) ran {
	t.Helper()
	return b.exec(t, command("/bin/bash", "-c", script))
}

// call is a line of bash that says what a server at an address says first.
func call(host, port string) string {
	return "exec 3<>/dev/tcp/" + host + "/" + port + " && head -n 1 <&3"
}

func TestNetworkAllow(t *testing.T) {
	t.Parallel()
	levels(t, func(t *testing.T, level string) {
		w := testnet.New(t)
		w.Names(t, map[string][]string{"api.example.com": {testnet.Server}, "evil.example.net": {testnet.OtherServer}})
		for _, a := range []string{testnet.Server + ":5000", testnet.OtherServer + ":5000", testnet.Metadata + ":80", testnet.Private + ":5432"} {
			w.Greeter(t, a)
		}
		b := netBox(t, w, level, step.NetworkAllow, step.Egress{Allow: []string{"api.example.com:5000"}, Private: []string{testnet.Private + ":5432"}})
		if r := b.bash(t, call("api.example.com", "5000")); r.exit.Code != 0 || r.out != "hello from "+testnet.Server+":5000\n" {
			t.Errorf("the allowed name: %+v", r)
		}
		for _, c := range [][2]string{{"evil.example.net", "5000"}, {testnet.OtherServer, "5000"}, {testnet.Metadata, "80"}, {testnet.Private, "5432"}, {"127.0.0.1", "5000"}} {
			if r := b.bash(t, call(c[0], c[1])); r.exit.Code == 0 || r.out != "" {
				t.Errorf("%s: %+v", c, r)
			}
		}
		r := b.bash(t, call(testnet.Metadata, "80"))
		if !strings.Contains(r.exit.Message, "network refused") || r.exit.Usage.NetRxBytes == 0 {
			t.Errorf("its end does not tell of it: %+v", r.exit)
		}
		stats, err := b.d.Stats(t.Context(), b.h)
		if err != nil || stats.NetRxBytes < int64(len("hello from ")) {
			t.Errorf("stats %+v, %v", stats, err)
		}
	})
}

func TestNetworkOpen(t *testing.T) {
	t.Parallel()
	levels(t, func(t *testing.T, level string) {
		w := testnet.New(t)
		w.Names(t, map[string][]string{"www.example.org": {testnet.Server, testnet.Server6}})
		reached := w.Greeter(t, testnet.Metadata+":80")
		w.Greeter(t, testnet.Server+":5000")
		w.Greeter(t, "["+testnet.Server6+"]:5000")
		b := netBox(t, w, level, step.NetworkOpen, step.Egress{})
		for _, host := range []string{testnet.Server, testnet.Server6, "www.example.org"} {
			if r := b.bash(t, call(host, "5000")); r.exit.Code != 0 || !strings.HasPrefix(r.out, "hello from ") {
				t.Errorf("%s: %+v", host, r)
			}
		}
		for _, host := range []string{testnet.Metadata, "::ffff:" + testnet.Metadata, "0xa9fea9fe", "2852039166", "[::1]"} {
			if r := b.bash(t, call(host, "80")); r.exit.Code == 0 || r.out != "" {
				t.Errorf("%s: %+v", host, r)
			}
		}
		if reached.Load() != 0 {
			t.Errorf("metadata was reached %d times", reached.Load())
		}
	})
}

// Much goes both ways, unchanged, and datagrams do.
func TestNetworkCarries(t *testing.T) {
	t.Parallel()
	levels(t, func(t *testing.T, level string) {
		w := testnet.New(t)
		w.Greeter(t, testnet.Server+":5000")
		w.Greeter(t, "["+testnet.Server6+"]:5000")
		w.Echo(t, testnet.Server+":6000")
		b := netBox(t, w, level, step.NetworkOpen, step.Egress{})
		want := b.bash(t, "seq 1 1000000 | sha256sum").out
		for _, host := range []string{testnet.Server, testnet.Server6} {
			r := b.bash(t, "exec 3<>/dev/tcp/"+host+"/5000 && read -r _ <&3 && { seq 1 1000000 >&3 & head -c 6888896 <&3 | sha256sum; }")
			if r.exit.Code != 0 || r.out != want || want == "" {
				t.Errorf("%s: %+v, want %q", host, r, want)
			}
		}
		if r := b.bash(t, "exec 3<>/dev/udp/"+testnet.Server+"/6000 && echo ping >&3 && timeout 20 head -n 1 <&3"); r.out != "ping\n" {
			t.Errorf("a datagram: %+v", r)
		}
	})
}

func TestNetworkNoneHasNoDevice(t *testing.T) {
	t.Parallel()
	b := newBox(t, newDriver(t))
	if r := b.sh(t, "cat /proc/net/dev | tail -n +3"); !strings.Contains(r.out, "lo:") || strings.Count(r.out, ":") != 1 {
		t.Errorf("devices: %q", r.out)
	}
}

// A step whose gateway dies has no network from there on, and is told why.
func TestGatewayDies(t *testing.T) {
	t.Parallel()
	levels(t, func(t *testing.T, level string) {
		w := testnet.New(t)
		w.Greeter(t, testnet.Server+":5000")
		b := netBox(t, w, level, step.NetworkOpen, step.Egress{})
		if r := b.bash(t, call(testnet.Server, "5000")); r.exit.Code != 0 {
			t.Fatalf("%+v", r)
		}
		dir, err := b.d.Folder(b.h)
		if err != nil {
			t.Fatal(err)
		}
		if err := egress.Stop(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		// To gVisor the other end is only silent.
		if r := b.bash(t, "timeout 2 /bin/bash -c '"+call(testnet.Server, "5000")+"'"); r.exit.Code == 0 || !strings.Contains(r.exit.Message, "gateway died") {
			t.Errorf("%+v", r)
		}
		if h, err := testnet.Within(t, w.Host(), func() (driver.Handle, error) { return b.d.Create(t.Context(), b.s) }); err != nil || h.ID != b.h.ID {
			t.Errorf("made again: %+v, %v", h, err)
		}
	})
}

// A sandbox's network is its own and goes with it; nobody else's is touched.
func TestNetworkGoesWithTheSandbox(t *testing.T) {
	t.Parallel()
	levels(t, func(t *testing.T, level string) {
		w := testnet.New(t)
		w.Greeter(t, testnet.Server+":5000")
		a := netBox(t, w, level, step.NetworkOpen, step.Egress{})
		b := netBox(t, w, level, step.NetworkOpen, step.Egress{})
		dir, err := a.d.Folder(a.h)
		if err != nil {
			t.Fatal(err)
		}
		lock := filepath.Join(dir, "network")
		if _, err := os.Stat(lock); err != nil {
			t.Fatal(err)
		}
		if err := a.d.Destroy(t.Context(), a.h); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("its folder: %v", err)
		}
		if r := b.bash(t, call(testnet.Server, "5000")); r.exit.Code != 0 {
			t.Errorf("the other one: %+v", r)
		}
	})
}

func TestNetworkCannotBeHad(t *testing.T) {
	t.Parallel()
	d := New()
	var c Config
	if err := json.Unmarshal(config(t), &c); err != nil {
		t.Fatal(err)
	}
	c.Egress = filepath.Join(t.TempDir(), "missing")
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Configure(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	desc, err := d.Describe(t.Context())
	if err != nil || desc.Capabilities.Has(driver.CapNetOpen) || !strings.Contains(strings.Join(desc.Warnings, "\n"), c.Egress) {
		t.Errorf("%+v, %v", desc, err)
	}
	s := driver.Spec{ID: "box-" + random(), Tags: driver.Tags{Owner: "test", ID: "x"}, Network: step.NetworkOpen}
	newHost().Fill(t, &s)
	if _, err := d.Create(t.Context(), s); !step.Is(err, step.KindUnsupported) || !strings.Contains(err.Error(), c.Egress) {
		t.Errorf("create: %v", err)
	}
	if err := egress.CheckResolvers([]string{"resolver.example.com"}); !step.Is(err, step.KindInvalid) {
		t.Error(err)
	}
}
