package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/nofx-run/nofx/internal/internet"
)

const (
	maxTargets = 16 // records whose targets are looked up for one answer
	maxLooks   = 64 // names that are looked up for answers about others, at a time
	targetTime = 3 * time.Second
)

// inner are the zones that nobody has on the Internet and many have at home, and
// those of addresses turned round.
var inner = [...]string{"local", "localhost", "internal", "intranet", "private", "corp", "home", "lan", "arpa"}

// isInner reports whether a name can be one of a local network's only.
func isInner(name string) bool {
	return slices.Contains(inner[:], name[strings.LastIndexByte(name, '.')+1:])
}

// records answers for what is no address, without what tells of a network that the
// step may not call: all of a name that leads there, targets that do, and texts
// with an address of one.
func (r *resolver) records(ctx context.Context, name string, kind dnsmessage.Type) ([]dnsmessage.ResourceBody, dnsmessage.RCode) {
	a, told, err := r.leads(ctx, name)
	switch {
	case err != nil:
		return nil, codeOf(err)
	case a.IsValid() && !told:
		r.count.Refuse("the name " + name + " leads to " + r.policy.untold(a))
		return nil, dnsmessage.RCodeNameError
	}
	var out []dnsmessage.ResourceBody
	var left string
	if kind == dnsmessage.TypeTXT {
		if isInner(name) && !told {
			r.count.Refuse("the name " + name + " is not one of the Internet's")
			return nil, dnsmessage.RCodeNameError
		}
		out, left, err = r.texts(ctx, name)
	} else {
		out, left, err = r.targets(ctx, name, kind)
	}
	if err != nil {
		return nil, codeOf(err)
	}
	if left != "" {
		r.count.Refuse("a record of the name " + name + " " + left)
	}
	if len(out) == 0 {
		return nil, dnsmessage.RCodeNameError
	}
	return out, dnsmessage.RCodeSuccess
}

// takeIn takes a place as soon as one is free.
func takeIn(ctx context.Context, places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// leads looks where a name leads: to an address, if it has one, and whether to one
// that the sandbox may be told.
func (r *resolver) leads(ctx context.Context, name string) (first netip.Addr, told bool, _ error) {
	if !takeIn(ctx, r.looks) {
		return first, false, ctx.Err()
	}
	defer func() { <-r.looks }()
	found, err := r.lookup.LookupNetIP(ctx, "ip", name+".")
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsNotFound {
		return first, false, nil
	}
	if err != nil || len(found) == 0 {
		return first, false, err
	}
	return found[0].Unmap(), slices.ContainsFunc(found, func(a netip.Addr) bool { return r.policy.told(a.Unmap()) }), nil
}

// texts gives a name's, and says why some were left out.
func (r *resolver) texts(ctx context.Context, name string) (out []dnsmessage.ResourceBody, left string, _ error) {
	found, err := r.lookup.LookupTXT(ctx, name+".")
	for _, t := range found[:min(len(found), maxAnswers)] {
		if r.tells(t) {
			left = "tells an address that is not on the Internet, and no policy of the tenant names it"
			continue
		}
		out = append(out, &dnsmessage.TXTResource{TXT: chunks(t)})
	}
	return out, left, err
}

// What may be an address within a text.
var (
	quad  = regexp.MustCompile(`[0-9]{1,3}(\.[0-9]{1,3}){3}`)
	colon = regexp.MustCompile(`[0-9A-Za-z.]*:[0-9A-Za-z.:]*:[0-9A-Za-z.:]*`)
)

// tells reports whether a text has an address in it that the sandbox may not be
// told of. This host's own on the Internet is nothing to hide: whoever a step calls
// sees it.
func (r *resolver) tells(text string) bool {
	secret := func(s string) (is, parsed bool) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return false, false
		}
		a = a.Unmap()
		return !a.IsUnspecified() && !internet.Public(a) && !r.policy.told(a), true
	}
	for _, s := range quad.FindAllString(text, -1) {
		if is, _ := secret(s); is {
			return true
		}
	}
	for _, s := range colon.FindAllString(text, -1) {
		// It may stand behind a word with a colon of its own: ip6:2001:db8::1.
		for s = strings.TrimRight(s, "."); s != ""; _, s, _ = strings.Cut(s, ":") {
			is, parsed := secret(s)
			if is {
				return true
			}
			if parsed {
				break
			}
		}
	}
	return false
}

// targets gives the records of a name that lead to another one, as far as the
// sandbox may call that, and says why some were left out.
func (r *resolver) targets(ctx context.Context, name string, kind dnsmessage.Type) (out []dnsmessage.ResourceBody, left string, err error) {
	type record struct {
		to   string
		body func(dnsmessage.Name) dnsmessage.ResourceBody
	}
	var all []record
	if kind == dnsmessage.TypeMX {
		var found []*net.MX
		found, err = r.lookup.LookupMX(ctx, name+".")
		for _, m := range found {
			all = append(all, record{m.Host, func(n dnsmessage.Name) dnsmessage.ResourceBody { return &dnsmessage.MXResource{Pref: m.Pref, MX: n} }})
		}
	} else {
		var found []*net.SRV
		_, found, err = r.lookup.LookupSRV(ctx, "", "", name+".")
		for _, s := range found {
			all = append(all, record{s.Target, func(n dnsmessage.Name) dnsmessage.ResourceBody {
				return &dnsmessage.SRVResource{Priority: s.Priority, Weight: s.Weight, Port: s.Port, Target: n}
			}})
		}
	}
	if err != nil {
		return nil, "", err
	}
	all = all[:min(len(all), maxTargets)]
	why := make([]string, len(all))
	ctx, cancel := context.WithTimeout(ctx, targetTime)
	defer cancel()
	var looking sync.WaitGroup
	for i, x := range all {
		looking.Go(func() { why[i] = r.aside(ctx, x.to) })
	}
	looking.Wait()
	for i, x := range all {
		n, err := dnsmessage.NewName(x.to)
		if why[i] != "" || err != nil {
			left = why[i]
			continue
		}
		out = append(out, x.body(n))
	}
	return out, left, nil
}

// aside says why the sandbox is not told of a target; "" = it is. One that cannot
// be looked up does not take the others with it.
func (r *resolver) aside(ctx context.Context, target string) string {
	name := strings.ToLower(strings.TrimSuffix(target, "."))
	if name == "" { // there is no such service
		return ""
	}
	if !r.policy.name(name, 0) {
		return "names another that is not in the step's list"
	}
	a, told, err := r.leads(ctx, name)
	switch {
	case err != nil:
		return "leads to a name that cannot be looked up"
	case told:
		return ""
	case a.IsValid():
		return "leads to " + r.policy.untold(a)
	}
	return "leads nowhere"
}

// chunks cuts a text into the strings that a TXT record is made of.
func chunks(t string) []string {
	var out []string
	for len(t) > 255 {
		out, t = append(out, t[:255]), t[255:]
	}
	return append(out, t)
}
