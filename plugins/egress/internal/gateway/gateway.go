package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/nofx-run/nofx/plugins/egress"
)

// Bounds of one sandbox's calls: what they hold here is not the step's memory.
const (
	maxConns   = 256
	maxFlows   = 128 // of UDP
	maxAsks    = 512 // flows of questions to the resolver
	maxPending = 64  // connections that are being made
	maxQueries = 64
	buffer     = 256 << 10 // bytes, each way of a connection
	mtu        = 65520

	dialTime = 20 * time.Second
	flowTime = 60 * time.Second // without a datagram
	// What an ended connection stays for. Nothing is late on a tunnel, and the
	// sandbox uses a port again long before the minute that a network needs.
	waitTime, lingerTime = 100 * time.Millisecond, 5 * time.Second
	askTime              = 100 * time.Millisecond // without a question: most programs ask from a new port each time
)

const nic tcpip.NICID = 1

// Gateway serves one sandbox.
type Gateway struct {
	policy   *policy
	resolver *resolver
	count    *Counters
	dialer   net.Dialer
	dns      netip.Addr

	conns, flows, asks, queries chan struct{} // capacity: how many at once
}

// New makes a gateway that waits for Attach.
func New(c egress.Config, count *Counters) (*Gateway, error) {
	if len(c.Resolvers) == 0 {
		return nil, errors.New("no name server to ask")
	}
	p, err := newPolicy(c.Policy)
	if err != nil {
		return nil, err
	}
	return &Gateway{
		policy: p, resolver: newResolver(p, count, c.Resolvers), count: count, dns: netip.MustParseAddr(egress.Resolver),
		conns: make(chan struct{}, maxConns), flows: make(chan struct{}, maxFlows),
		asks: make(chan struct{}, maxAsks), queries: make(chan struct{}, maxQueries),
	}, nil
}

// Attach serves what comes out of the tunnel device until ctx ends. It calls
// ready when it does.
func (g *Gateway) Attach(ctx context.Context, tun int, ready func()) error {
	link, err := fdbased.New(&fdbased.Options{FDs: []int{tun}, MTU: mtu, RXChecksumOffload: true})
	if err != nil {
		return err
	}
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	sack, rcv := tcpip.TCPSACKEnabled(true), tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: buffer, Max: buffer}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: buffer, Max: buffer}
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(waitTime), tcpip.TCPLingerTimeoutOption(lingerTime)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &rcv, &snd, &wait, &linger} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("network stack: %s", err)
		}
	}
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s, buffer, maxPending, func(r *tcp.ForwarderRequest) { g.connect(ctx, r) }).HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, func(r *udp.ForwarderRequest) bool { return g.datagrams(ctx, r) }).HandlePacket)
	if err := s.CreateNIC(nic, &screen{LinkEndpoint: link}); err != nil {
		return fmt.Errorf("network stack: %s", err)
	}
	if err := s.SetPromiscuousMode(nic, true); err != nil { // every address is ours
		return fmt.Errorf("network stack: %s", err)
	}
	if err := s.SetSpoofing(nic, true); err != nil {
		return fmt.Errorf("network stack: %s", err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	ready()
	<-ctx.Done()
	s.Close()
	return nil
}

// destination is where the sandbox's packet was to go.
func destination(id stack.TransportEndpointID) netip.AddrPort {
	a, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return netip.AddrPortFrom(a.Unmap(), id.LocalPort)
}

// take takes a place, if one is free.
func take(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}
