package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// datagrams serves a flow of datagrams, or reports false: the sandbox is told
// that the port is not reachable. A list of names cannot be kept over UDP, so
// that with one only the resolver answers there; QUIC falls back to TCP.
func (g *Gateway) datagrams(ctx context.Context, r *udp.ForwarderRequest) bool {
	to := destination(r.ID())
	dns := to.Addr() == g.dns && to.Port() == 53
	if !dns {
		if !g.policy.open {
			g.count.Refuse("UDP to " + to.String() + ": a list of destinations holds for TCP only")
			return false
		}
		if _, err := g.policy.admit(to); err != nil {
			g.count.Refuse("UDP: " + err.Error())
			return false
		}
	}
	places := g.flows
	if dns {
		places = g.asks
	}
	if !take(places) {
		return dns // asked again, while a port that is not reachable would end it
	}
	var wq waiter.Queue
	ep, err := r.CreateEndpoint(&wq)
	if err != nil {
		<-places
		return false
	}
	in := gonet.NewUDPConn(&wq, ep)
	go func() {
		defer func() { <-places }()
		defer func() { _ = in.Close() }()
		stop := context.AfterFunc(ctx, func() { _ = in.Close() })
		defer stop()
		if dns {
			g.serveDNS(ctx, in)
		} else {
			g.relay(ctx, in, to)
		}
	}()
	return true
}

// relay carries datagrams both ways until none has come for a while.
func (g *Gateway) relay(ctx context.Context, in net.Conn, to netip.AddrPort) {
	dialer := net.Dialer{Control: toOne}
	out, err := dialer.DialContext(ctx, "udp", to.String())
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	carry := func(to, from net.Conn, count func(int)) {
		defer func() { _, _ = to.Close(), from.Close() }()
		buf := make([]byte, 64<<10)
		for {
			if err := from.SetReadDeadline(time.Now().Add(flowTime)); err != nil {
				return
			}
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
			count(n)
		}
	}
	var both sync.WaitGroup
	both.Go(func() { carry(out, in, g.count.Sent) })
	carry(in, out, g.count.Received)
	both.Wait()
}

// toOne has the kernel refuse the broadcast address of a network that the host
// is in: it is the host's own, too, and Go's sockets may send to it.
func toOne(_, _ string, c syscall.RawConn) (err error) {
	failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0) })
	return errors.Join(failed, err)
}

// serveDNS answers the questions of one flow, each as it comes.
func (g *Gateway) serveDNS(ctx context.Context, in *gonet.UDPConn) {
	var answers sync.WaitGroup
	defer answers.Wait()
	buf := make([]byte, maxUDP)
	for {
		if err := in.SetReadDeadline(time.Now().Add(askTime)); err != nil {
			return
		}
		n, err := in.Read(buf)
		if err != nil {
			return
		}
		if !take(g.queries) {
			continue // asked again
		}
		query := append([]byte(nil), buf[:n]...)
		answers.Go(func() {
			defer func() { <-g.queries }()
			if answer := g.resolver.answer(ctx, query, maxUDP); answer != nil {
				_, _ = in.Write(answer)
			}
		})
	}
}

// connectDNS answers questions over TCP.
func (g *Gateway) connectDNS(ctx context.Context, r *tcp.ForwarderRequest, to netip.AddrPort) {
	if to.Port() != 53 || !take(g.conns) {
		r.Complete(true)
		return
	}
	defer func() { <-g.conns }()
	in, err := accept(r)
	if err != nil {
		return
	}
	defer func() { in.end(ctx) }()
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	var head [2]byte
	for {
		if err := in.SetReadDeadline(time.Now().Add(flowTime)); err != nil {
			return
		}
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(in, query); err != nil {
			return
		}
		answer := g.resolver.answer(ctx, query, 65535)
		if answer == nil {
			return
		}
		binary.BigEndian.PutUint16(head[:], uint16(len(answer))) //nolint:gosec // answer keeps to the limit
		if _, err := in.Write(append(head[:], answer...)); err != nil {
			return
		}
	}
}
