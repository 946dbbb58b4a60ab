package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/nofx-run/nofx/sdk/step"
)

const (
	lookupTime = 8 * time.Second
	ttl        = 60  // seconds
	maxAnswers = 32  // records
	maxUDP     = 512 // bytes; more comes over TCP
)

// resolver answers the sandbox's questions about names. It asks on its own
// account: nothing that the sandbox sent goes further than a name and a type,
// and only for names that it may call.
type resolver struct {
	policy *policy
	count  *Counters
	lookup *net.Resolver
	six    bool // whether this host can call IPv6 addresses
	looks  chan struct{}
}

func newResolver(p *policy, count *Counters, servers []string) *resolver {
	var turn atomic.Uint32
	var dialer net.Dialer
	return &resolver{policy: p, count: count, six: routed("[2600::]:53"), looks: make(chan struct{}, maxLooks), lookup: &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, servers[int(turn.Add(1)-1)%len(servers)])
		},
	}}
}

// routed reports whether the host has a way to an address. Nothing is sent.
func routed(address string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", address)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// answer gives the answer to a query; nil when it deserves none.
func (r *resolver) answer(ctx context.Context, query []byte, limit int) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	out := dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true}
	if err != nil || h.OpCode != 0 || q.Class != dnsmessage.ClassINET {
		out.RCode = dnsmessage.RCodeNotImplemented
		return pack(out, nil, nil)
	}
	bodies, code := r.resolve(ctx, q)
	out.RCode = code
	msg := pack(out, &q, bodies)
	if len(msg) > limit {
		out.Truncated = true
		msg = pack(out, &q, nil)
	}
	return msg
}

func pack(h dnsmessage.Header, q *dnsmessage.Question, bodies []dnsmessage.ResourceBody) []byte {
	m := dnsmessage.Message{Header: h}
	if q != nil {
		m.Questions = []dnsmessage.Question{*q}
		for _, b := range bodies {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}, Body: b,
			})
		}
	}
	msg, err := m.Pack()
	if err != nil {
		return nil
	}
	return msg
}

func (r *resolver) resolve(ctx context.Context, q dnsmessage.Question) ([]dnsmessage.ResourceBody, dnsmessage.RCode) {
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	if !step.IsDomain(name) {
		return nil, dnsmessage.RCodeNameError
	}
	if !r.policy.name(name, 0) {
		r.count.Refuse("the name " + name + " is not in the step's list")
		return nil, dnsmessage.RCodeRefused
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	switch q.Type {
	case dnsmessage.TypeA:
		return r.addresses(ctx, name, "ip4")
	case dnsmessage.TypeAAAA:
		if !r.six {
			return nil, dnsmessage.RCodeSuccess
		}
		return r.addresses(ctx, name, "ip6")
	case dnsmessage.TypeTXT, dnsmessage.TypeMX, dnsmessage.TypeSRV:
		return r.records(ctx, name, q.Type)
	}
	return nil, dnsmessage.RCodeSuccess // there may be others; we do not tell
}

func (r *resolver) addresses(ctx context.Context, name, network string) ([]dnsmessage.ResourceBody, dnsmessage.RCode) {
	found, err := r.lookup.LookupNetIP(ctx, network, name+".")
	if err != nil {
		return nil, codeOf(err)
	}
	var good []netip.Addr
	var out []dnsmessage.ResourceBody
	for _, a := range found {
		a = a.Unmap()
		if len(good) == maxAnswers {
			break
		}
		if !r.policy.told(a) {
			r.count.Refuse("the name " + name + " leads to " + r.policy.untold(a))
			continue
		}
		good = append(good, a)
		if a.Is4() {
			out = append(out, &dnsmessage.AResource{A: a.As4()})
		} else {
			out = append(out, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	if len(good) == 0 {
		return nil, dnsmessage.RCodeNameError
	}
	r.policy.learn(name, good)
	return out, dnsmessage.RCodeSuccess
}

func codeOf(err error) dnsmessage.RCode {
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsNotFound {
		return dnsmessage.RCodeNameError
	}
	return dnsmessage.RCodeServerFailure
}
