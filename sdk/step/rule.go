package step

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Rule is one entry of a step's network list: whom it may call. In text it is
// HOST or HOST:PORTS. HOST is a domain, *.DOMAIN for every name below it, an
// address, or a prefix such as 203.0.113.0/24; IPv6 stands in brackets. PORTS
// is *, or up to 16 of PORT and FIRST-LAST with commas; without it, 80 and 443.
type Rule struct {
	Domain string       // lower case, without a final dot; "" = Prefix
	Below  bool         // every name below Domain, and not Domain itself
	Prefix netip.Prefix // with no bit set below its length
	Ports  []PortRange  // never empty
}

// PortRange is First to Last, both of them in it.
type PortRange struct{ First, Last uint16 }

const (
	maxRule       = 300 // bytes
	maxPortRanges = 16
)

var defaultPorts = []PortRange{{80, 80}, {443, 443}}

// ParseRule reads a rule. The error is of kind invalid and names what is wrong.
func ParseRule(text string) (Rule, error) {
	if len(text) > maxRule {
		return Rule{}, Errorf(KindInvalid, "%.60q… has more than %d bytes", text, maxRule)
	}
	host, ports, err := splitRule(text)
	if err != nil {
		return Rule{}, err
	}
	r := Rule{Ports: slices.Clone(defaultPorts)}
	if ports != "" {
		if r.Ports, err = parsePorts(ports); err != nil {
			return Rule{}, err
		}
	}
	if r.Prefix, err = parsePrefix(host); err == nil {
		return r, nil
	}
	if strings.ContainsAny(host, "/:[]") || allDigits(host) {
		return Rule{}, Errorf(KindInvalid, "%.100q is neither a domain nor an address nor a prefix: %w", host, err)
	}
	r.Domain, r.Below, err = parseDomain(host)
	return r, err
}

// splitRule takes HOST and PORTS apart.
func splitRule(text string) (host, ports string, _ error) {
	if rest, ok := strings.CutPrefix(text, "["); ok {
		host, ports, ok = strings.Cut(rest, "]")
		if !ok || ports != "" && (ports[0] != ':' || len(ports) == 1) || !strings.Contains(host, ":") {
			return "", "", Errorf(KindInvalid, "%.100q is not [ADDRESS]:PORTS", text)
		}
		return host, strings.TrimPrefix(ports, ":"), nil
	}
	switch strings.Count(text, ":") {
	case 0:
		return text, "", nil
	case 1:
		host, ports, _ = strings.Cut(text, ":")
		if ports == "" {
			return "", "", Errorf(KindInvalid, "%.100q ends with a colon and no port", text)
		}
		return host, ports, nil
	}
	return "", "", Errorf(KindInvalid, "%.100q: an IPv6 address stands in brackets, as in [2001:db8::1]:443", text)
}

func parsePorts(text string) ([]PortRange, error) {
	if text == "*" {
		return []PortRange{{1, 65535}}, nil
	}
	parts := strings.Split(text, ",")
	if len(parts) > maxPortRanges {
		return nil, Errorf(KindInvalid, "%d ports are more than %d", len(parts), maxPortRanges)
	}
	out := make([]PortRange, 0, len(parts))
	for _, p := range parts {
		a, b, both := strings.Cut(p, "-")
		if !both {
			b = a
		}
		first, err1 := strconv.ParseUint(a, 10, 16)
		last, err2 := strconv.ParseUint(b, 10, 16)
		if err1 != nil || err2 != nil || first < 1 || last < first {
			return nil, Errorf(KindInvalid, "%.40q is no port, which is 1 to 65535, FIRST-LAST or *", p)
		}
		out = append(out, PortRange{uint16(first), uint16(last)})
	}
	return out, nil
}

func parsePrefix(host string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(host)
	if err != nil {
		a, aerr := netip.ParseAddr(host)
		if aerr != nil || a.Zone() != "" {
			return netip.Prefix{}, err
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, Errorf(KindInvalid, "an IPv4 address is written as such")
	}
	return p.Masked(), nil
}

// allDigits tells what looks like an address, such as 2130706433 or 10.1.
func allDigits(host string) bool {
	return strings.Trim(host, "0123456789.") == ""
}

func parseDomain(host string) (domain string, below bool, _ error) {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	name, below = strings.CutPrefix(name, "*.")
	if !strings.Contains(name, ".") {
		return "", false, Errorf(KindInvalid, "%.100q is no full domain", host)
	}
	if !IsDomain(name) {
		return "", false, Errorf(KindInvalid, "%.100q is no domain: letters, digits and hyphens between dots; others in their xn-- form", host)
	}
	return name, below, nil
}

// IsDomain reports whether name is one of a host, in lower case and without a
// final dot.
func IsDomain(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// HasPort reports whether the rule allows a port.
func (r Rule) HasPort(port uint16) bool {
	return slices.ContainsFunc(r.Ports, func(p PortRange) bool { return p.First <= port && port <= p.Last })
}

// HasName reports whether a rule with a domain covers a name, which is in
// lower case and without a final dot.
func (r Rule) HasName(name string) bool {
	if r.Domain == "" {
		return false
	}
	if r.Below {
		return strings.HasSuffix(name, "."+r.Domain)
	}
	return name == r.Domain
}

// HasAddr reports whether a rule with a prefix covers an address.
func (r Rule) HasAddr(a netip.Addr) bool {
	return r.Domain == "" && r.Prefix.IsValid() && r.Prefix.Contains(a.Unmap())
}

// String gives the rule in the form that ParseRule reads.
func (r Rule) String() string {
	host := r.Domain
	switch {
	case r.Below:
		host = "*." + host
	case host == "":
		host = r.Prefix.String()
		if r.Prefix.IsSingleIP() {
			host = r.Prefix.Addr().String()
		}
		if r.Prefix.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	if slices.Equal(r.Ports, defaultPorts) {
		return host
	}
	if slices.Equal(r.Ports, []PortRange{{1, 65535}}) {
		return host + ":*"
	}
	ports := make([]string, len(r.Ports))
	for i, p := range r.Ports {
		ports[i] = strconv.Itoa(int(p.First))
		if p.Last != p.First {
			ports[i] += "-" + strconv.Itoa(int(p.Last))
		}
	}
	return host + ":" + strings.Join(ports, ",")
}
