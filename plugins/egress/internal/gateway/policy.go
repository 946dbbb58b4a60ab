package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/internet"
	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/sdk/step"
)

// Bounds of what the resolver has told the sandbox.
const (
	maxAddrs = 8192
	maxNames = 16 // of one address
)

// policy decides what may be called. It learns from the resolver which
// addresses belong to the names that the sandbox may call.
type policy struct {
	open    bool
	allow   []step.Rule
	private []step.Rule // exceptions to what nobody may call
	own     func() ([]net.Addr, error)

	mu    sync.Mutex
	names map[netip.Addr][]string
}

func newPolicy(c egress.Policy) (*policy, error) {
	p := &policy{open: c.Open, own: net.InterfaceAddrs, names: map[netip.Addr][]string{}}
	for _, l := range []struct {
		in  []string
		out *[]step.Rule
	}{{c.Allow, &p.allow}, {c.Private, &p.private}} {
		for _, text := range l.in {
			r, err := step.ParseRule(text)
			if err != nil {
				return nil, err
			}
			*l.out = append(*l.out, r)
		}
	}
	return p, nil
}

// callable reports whether an address may be called on a port, 0 for any,
// whatever the step's list says: one of the Internet's that is not this host's
// own, or an exception. What an exception's prefix covers may be this host,
// which then has to be named by itself.
func (p *policy) callable(a netip.Addr, port uint16) (ok, exception bool) {
	mine := p.mine(a)
	if !mine && internet.Public(a) {
		return true, false
	}
	return slices.ContainsFunc(p.private, func(r step.Rule) bool {
		return r.HasAddr(a) && (port == 0 || r.HasPort(port)) && (!mine || r.Prefix.IsSingleIP())
	}), true
}

// told reports whether the sandbox may be told an address of a name that it may
// call. Whoever has the name could point it at an exception, which is the
// step's only when the list has its address.
func (p *policy) told(a netip.Addr) bool {
	ok, exception := p.callable(a, 0)
	return ok && (!exception || p.open || slices.ContainsFunc(p.allow, func(r step.Rule) bool { return r.HasAddr(a) }))
}

// untold says why the sandbox is not told an address. Which one it is would tell
// of the host's network.
func (p *policy) untold(a netip.Addr) string {
	if ok, _ := p.callable(a, 0); ok {
		return "a private address, which the step's list does not name"
	}
	return "an address that is not on the Internet, and no policy of the tenant names it"
}

// mine reports whether an address is this host's own, or may be: it is one of
// an interface's, or the host's routes keep it here.
func (p *policy) mine(a netip.Addr) bool {
	own, err := p.own()
	return err != nil || a.IsLoopback() || a.IsUnspecified() || slices.ContainsFunc(own, func(o net.Addr) bool {
		n, ok := o.(*net.IPNet)
		if !ok {
			return false
		}
		mine, ok := netip.AddrFromSlice(n.IP)
		return ok && mine.Unmap() == a
	}) || !leaves(a)
}

// leaves reports whether the host's routes send what is for an address to
// somebody else, or have none for it.
func leaves(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	for _, none := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} {
		if errors.Is(err, none) {
			return true
		}
	}
	return err == nil && !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Type != unix.RTN_UNICAST })
}

// admit decides about a connection. named says that only the name allows it,
// which whoever can must check once more in what the client sends.
func (p *policy) admit(to netip.AddrPort) (named bool, _ error) {
	a, port := to.Addr().Unmap(), to.Port()
	ok, exception := p.callable(a, port)
	if !ok {
		return false, fmt.Errorf("%s is not on the Internet and no policy of the tenant names it", to)
	}
	if p.open || slices.ContainsFunc(p.allow, func(r step.Rule) bool { return r.HasAddr(a) && r.HasPort(port) }) {
		return false, nil
	}
	p.mu.Lock()
	names := p.names[a]
	p.mu.Unlock()
	if !exception && slices.ContainsFunc(names, func(name string) bool { return p.name(name, port) }) {
		return true, nil
	}
	if len(names) > 0 {
		return false, fmt.Errorf("%s (%s) is not in the step's list", to, names[0])
	}
	return false, fmt.Errorf("%s is not in the step's list", to)
}

// name reports whether a name may be called; port 0 is any.
func (p *policy) name(name string, port uint16) bool {
	return p.open || slices.ContainsFunc(p.allow, func(r step.Rule) bool { return r.HasName(name) && (port == 0 || r.HasPort(port)) })
}

// learn notes that the sandbox was told addresses of a name. What does not fit
// is left out: calls to it are refused.
func (p *policy) learn(name string, addrs []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range addrs {
		names, known := p.names[a]
		if !known && len(p.names) >= maxAddrs || len(names) >= maxNames || slices.Contains(names, name) {
			continue
		}
		p.names[a] = append(names, name)
	}
}
