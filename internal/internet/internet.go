// Package internet knows which addresses are the Internet's, so that what calls
// out for somebody else does not call this host, its networks or its cloud.
package internet

import (
	"net/netip"
	"slices"
)

// special are the addresses that no host on the Internet has, or that lead
// back to this host: IANA's registries of special-purpose addresses, and what
// clouds use for the data of their machines.
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)

// global is all of IPv6 that is given out; the rest holds loopback, link-local,
// local and translated addresses.
var global = netip.MustParsePrefix("2000::/3")

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, p := range list {
		out[i] = netip.MustParsePrefix(p)
	}
	return out
}

// Public reports whether an address is one of the Internet's. An IPv4 address
// in IPv6's clothes has to be unmapped before.
func Public(a netip.Addr) bool {
	return (a.Is4() || global.Contains(a)) && !slices.ContainsFunc(special, func(s netip.Prefix) bool { return s.Contains(a) })
}
