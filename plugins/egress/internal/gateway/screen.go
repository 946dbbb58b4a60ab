package gateway

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// screen lets through what is TCP or UDP in one piece. The stack would answer
// an echo for every address in the world, and fragments and extension headers
// serve nobody here but who wants to get past something.
type screen struct {
	stack.LinkEndpoint
	up stack.NetworkDispatcher
}

// Attach implements stack.LinkEndpoint.
func (s *screen) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		s.LinkEndpoint.Attach(nil)
		return
	}
	s.up = d
	s.LinkEndpoint.Attach(s)
}

// DeliverNetworkPacket implements stack.NetworkDispatcher.
func (s *screen) DeliverNetworkPacket(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	if good(protocol, pkt) {
		s.up.DeliverNetworkPacket(protocol, pkt)
	}
}

// DeliverLinkPacket implements stack.NetworkDispatcher.
func (s *screen) DeliverLinkPacket(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	s.up.DeliverLinkPacket(protocol, pkt)
}

func good(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) bool {
	var inner tcpip.TransportProtocolNumber
	switch protocol {
	case header.IPv4ProtocolNumber:
		head, ok := pkt.Data().PullUp(header.IPv4MinimumSize)
		ip := header.IPv4(head)
		if !ok || ip.HeaderLength() != header.IPv4MinimumSize || ip.More() || ip.FragmentOffset() != 0 {
			return false
		}
		inner = ip.TransportProtocol()
	case header.IPv6ProtocolNumber:
		head, ok := pkt.Data().PullUp(header.IPv6MinimumSize)
		if !ok {
			return false
		}
		inner = tcpip.TransportProtocolNumber(header.IPv6(head).NextHeader())
	}
	return inner == header.TCPProtocolNumber || inner == header.UDPProtocolNumber
}
