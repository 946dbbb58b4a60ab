// Package gateway is a sandbox's way out: the other end of the tunnel device
// in the sandbox's network namespace. It ends every connection in a network
// stack of its own, asks the policy, and makes the call itself from the host's
// namespace, so that nothing of the sandbox's reaches a network as it is: no
// packet of its making, no protocol but TCP and UDP, no address that the
// policy has not seen.
package gateway

// Addresses in the sandbox: of the documentation's ranges, which stand for
// nothing else anywhere.
const (
	sandbox4 = "192.0.2.2"
	sandbox6 = "2001:db8::2"
)
