package egress_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/plugins/egress"
)

// found are a name's records of each kind, as the sandbox is told of them.
func (b *box) found(name string) []string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	var all []string
	r := b.resolver()
	texts, _ := r.LookupTXT(ctx, name+".")
	for _, t := range texts {
		all = append(all, "TXT "+t)
	}
	mails, _ := r.LookupMX(ctx, name+".")
	for _, m := range mails {
		all = append(all, "MX "+m.Host)
	}
	_, services, _ := r.LookupSRV(ctx, "", "", name+".")
	for _, s := range services {
		all = append(all, "SRV "+s.Target)
	}
	slices.Sort(all)
	return all
}

const (
	inZone = "corp.example.org" // a name whose addresses are private
	deep   = "_ldap._tcp." + inZone
)

var zones = map[string][]string{
	publicName: {testnet.Server, "TXT v=spf1 ip4:93.184.215.0/24 ip6:2606:2800:220::/48 ip4:0.0.0.0/0 -all", "TXT at 12:30:45 :: std::cout", "TXT db is 10.20.0.9.",
		"TXT v=spf1 ip6:fd00::7 -all", "TXT see [fe80::1%eth0]:80", "TXT ::ffff:192.168.0.1", "TXT cloud=169.254.169.254/latest",
		"MX mail.example.com.", "MX inner.example.com.", "MX mixed.example.com.", "MX gone.example.com.", "MX broken.example.com.", "MX mail.example.net.",
		"SRV mail.example.com.", "SRV inner.example.com.", "SRV mail.example.net."},
	"mail.example.com": {testnet.Server6}, "mail.example.net": {testnet.OtherServer}, "inner.example.com": {testnet.Private}, "mixed.example.com": {testnet.Private, testnet.Server},
	"broken.example.com": nil,
	"none.example.com":   {"MX .", "SRV ."},
	"_acme.example.com":  {"TXT token"},
	inZone:               {testnet.Private, "TXT the plan", "MX mail.example.com.", "SRV mail.example.com."},
	deep:                 {"SRV dc1." + inZone + "."},
	"dc1." + inZone:      {testnet.Private},
	"_plan.home.arpa":    {"TXT the plan"},
	"wiki.intra.private": {"TXT the plan"},
	"db.team.internal":   {testnet.Private, "TXT the plan"},
}

// What is no address does not tell of the host's networks either.
func TestRecords(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	w.Names(t, zones)
	b := enter(t, w, egress.Policy{Open: true})
	for name, want := range map[string][]string{
		publicName: {"MX mail.example.com.", "MX mail.example.net.", "MX mixed.example.com.", "SRV mail.example.com.", "SRV mail.example.net.",
			"TXT at 12:30:45 :: std::cout", "TXT v=spf1 ip4:93.184.215.0/24 ip6:2606:2800:220::/48 ip4:0.0.0.0/0 -all"},
		"none.example.com": {"MX .", "SRV ."}, "_acme.example.com": {"TXT token"},
		inZone: nil, deep: nil, "_plan.home.arpa": nil, "wiki.intra.private": nil, "db.team.internal": nil,
	} {
		if got := b.found(name); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if u := b.use(); u.Refused == 0 || strings.Contains(u.Refusal, "10.20") || strings.Contains(u.Refusal, "inner.") {
		t.Errorf("use %+v", u)
	}
}

// A tenant's exception opens the records that lead to it, and a list leaves out
// what the step may not call.
func TestRecordsOfPolicy(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	asked, _ := w.Names(t, zones)
	private := []string{"10.20.0.0/16:*"}
	b := enter(t, w, egress.Policy{Open: true, Private: private})
	if got := b.found("db.team.internal"); !slices.Equal(got, []string{"TXT the plan"}) {
		t.Errorf("open, with an exception: %q", got)
	}
	if got := b.found(deep); !slices.Equal(got, []string{"SRV dc1." + inZone + "."}) {
		t.Errorf("open, with an exception: %q", got)
	}
	list := enter(t, w, egress.Policy{Allow: []string{"*.example.com"}, Private: private})
	want := []string{"MX mail.example.com.", "MX mixed.example.com.", "SRV mail.example.com.",
		"TXT at 12:30:45 :: std::cout", "TXT v=spf1 ip4:93.184.215.0/24 ip6:2606:2800:220::/48 ip4:0.0.0.0/0 -all"}
	if got := list.found(publicName); !slices.Equal(got, want) {
		t.Errorf("with a list: %q", got)
	}
	before := asked.Load()
	if got := list.found("db.team.internal"); got != nil || asked.Load() != before {
		t.Errorf("not in the list: %q", got)
	}
}
