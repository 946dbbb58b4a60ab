package container

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// A container gets its network the same way as a sandbox of the local driver:
// none of the engine's, and a gateway of its own.
func TestNetwork(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	w.Names(t, map[string][]string{"api.example.com": {testnet.Server}, "evil.example.net": {testnet.OtherServer}})
	for _, a := range []string{testnet.Server + ":5000", testnet.OtherServer + ":5000", testnet.Metadata + ":80", testnet.Private + ":5432"} {
		w.Greeter(t, a)
	}
	d := configured(t, func(c *Config) { c.Resolvers = []string{testnet.DNS + ":53"} })
	open := func(n step.Network, e step.Egress) driver.Handle {
		t.Helper()
		s := newSpec(t, func(s *driver.Spec) { s.Network, s.Egress = n, e })
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
		return h
	}
	call := func(h driver.Handle, host, port string) ran {
		t.Helper()
		// The image's programs are static: they ask name servers, and the C library does not.
		return run(t, d, h, "a=$(nslookup "+host+" | awk '/^Name/ { n = 1 } n && /^Address/ { print $NF; exit }'); echo | nc -w 5 ${a:-"+host+"} "+port+" | head -n 1")
	}
	list := open(step.NetworkAllow, step.Egress{Allow: []string{"api.example.com:5000"}})
	if r := call(list, "api.example.com", "5000"); r.out != "hello from "+testnet.Server+":5000\n" {
		t.Errorf("the allowed name: %+v", r)
	}
	all := open(step.NetworkOpen, step.Egress{})
	if r := call(all, testnet.OtherServer, "5000"); r.out != "hello from "+testnet.OtherServer+":5000\n" {
		t.Errorf("open: %+v", r)
	}
	none := open(step.NetworkNone, step.Egress{})
	for _, c := range []struct {
		h          driver.Handle
		host, port string
	}{
		{list, "evil.example.net", "5000"}, {list, testnet.OtherServer, "5000"}, {list, testnet.Metadata, "80"},
		{all, testnet.Metadata, "80"}, {all, testnet.Private, "5432"}, {none, testnet.Server, "5000"}, {none, "api.example.com", "5000"},
	} {
		if r := call(c.h, c.host, c.port); r.out != "" {
			t.Errorf("%s: %+v", c.host, r)
		}
	}
	stats, err := d.Stats(t.Context(), all)
	if err != nil || stats.NetRxBytes < int64(len("hello from ")) {
		t.Errorf("stats %+v, %v", stats, err)
	}
	if r := run(t, d, list, "cat /etc/resolv.conf"); !strings.Contains(r.out, "nameserver") {
		t.Errorf("resolv.conf: %+v", r)
	}
}
