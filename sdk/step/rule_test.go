package step_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestParseRule(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"example.com":                 "example.com",
		"Example.COM.":                "example.com",
		"*.example.com":               "*.example.com",
		"example.com:443,80":          "example.com:443,80",
		"example.com:8000-8100":       "example.com:8000-8100",
		"example.com:*":               "example.com:*",
		"example.com:80,443":          "example.com",
		"203.0.113.7":                 "203.0.113.7",
		"203.0.113.7/24:22":           "203.0.113.0/24:22",
		"[2001:db8::1]:443":           "[2001:db8::1]:443",
		"[2001:db8::/32]":             "[2001:db8::/32]",
		"xn--bcher-kva.example":       "xn--bcher-kva.example",
		"_acme-challenge.example.com": "_acme-challenge.example.com",
	} {
		r, err := step.ParseRule(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: %q, %v; want %q", text, r, err, want)
			continue
		}
		if again, err := step.ParseRule(r.String()); err != nil || again.String() != want {
			t.Errorf("%q again: %q, %v", r, again, err)
		}
	}
}

func TestParseRuleRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "localhost", "*", "*.com", "*.*.example.com", "a..example.com", "-a.example.com", "a_b-.example.com", "bücher.example",
		"example.com:", "example.com:0", "example.com:65536", "example.com:90-80", "example.com:http", "example.com:1:2", "example.com:80,",
		"example.com/path", "https://example.com", "user@example.com", "exam ple.com", "example.com\n", "example.com\x00",
		"2001:db8::1", "2001:db8::1:443", "[example.com]:443", "[203.0.113.7]:443", "[2001:db8::1", "[2001:db8::1]443", "[2001:db8::1]:", "[fe80::1%eth0]",
		"[::ffff:10.0.0.1]:80", "10.0.0.0/33", "10.0.0.256", "2130706433", "0x7f000001", "010.0.0.1", "10.1",
		strings.Repeat("a", 64) + ".example.com", strings.Repeat("a.", 130) + "com", "example.com:" + strings.Repeat("1,", 16) + "1",
	} {
		if r, err := step.ParseRule(text); !step.Is(err, step.KindInvalid) {
			t.Errorf("%q: %q, %v; want it refused as invalid", text, r, err)
		}
	}
}

func TestRuleCovers(t *testing.T) {
	t.Parallel()
	rule := func(text string) step.Rule {
		r, err := step.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, c := range []struct {
		rule, name string
		want       bool
	}{
		{"example.com", "example.com", true}, {"example.com", "a.example.com", false}, {"example.com", "badexample.com", false},
		{"*.example.com", "a.example.com", true}, {"*.example.com", "a.b.example.com", true}, {"*.example.com", "example.com", false},
		{"*.example.com", "badexample.com", false}, {"203.0.113.7", "203.0.113.7", false},
	} {
		if got := rule(c.rule).HasName(c.name); got != c.want {
			t.Errorf("%s has %s: %t", c.rule, c.name, got)
		}
	}
	for _, c := range []struct {
		rule, addr string
		want       bool
	}{
		{"203.0.113.0/24", "203.0.113.9", true}, {"203.0.113.0/24", "203.0.114.9", false}, {"203.0.113.0/24", "::ffff:203.0.113.9", true},
		{"[2001:db8::/32]", "2001:db8::5", true}, {"[2001:db8::/32]", "203.0.113.9", false}, {"example.com", "203.0.113.9", false},
	} {
		if got := rule(c.rule).HasAddr(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s has %s: %t", c.rule, c.addr, got)
		}
	}
	if r := rule("example.com:8000-8100,22"); !r.HasPort(22) || !r.HasPort(8000) || !r.HasPort(8100) || r.HasPort(8101) || r.HasPort(443) {
		t.Errorf("ports of %s", r)
	}
}
