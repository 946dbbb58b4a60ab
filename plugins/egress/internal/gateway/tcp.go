package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// connect decides about one connection of the sandbox and serves it. The
// sandbox's handshake ends only when the other side has answered.
func (g *Gateway) connect(ctx context.Context, r *tcp.ForwarderRequest) {
	to := destination(r.ID())
	if to.Addr() == g.dns {
		g.connectDNS(ctx, r, to)
		return
	}
	named, err := g.policy.admit(to)
	if err != nil {
		g.count.Refuse(err.Error())
		r.Complete(true)
		return
	}
	if !take(g.conns) {
		g.count.Refuse(fmt.Sprintf("%s: the sandbox has %d connections already", to, maxConns))
		r.Complete(true)
		return
	}
	defer func() { <-g.conns }()
	limit, cancel := context.WithTimeout(ctx, dialTime)
	out, err := g.dialer.DialContext(limit, "tcp", to.String())
	cancel()
	if err != nil {
		r.Complete(true)
		return
	}
	defer func() { _ = out.Close() }()
	in, err := accept(r)
	if err != nil {
		return
	}
	defer func() { in.end(ctx) }()
	stop := context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
	defer stop()
	if named && (to.Port() == 443 || to.Port() == 80) && !g.named(ctx, in, out, to) {
		return
	}
	g.copyBoth(in, outer{out.(*net.TCPConn)})
}

// conn is a connection of the sandbox's.
type conn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// end closes the connection and returns when nothing is left here of what was
// sent to the sandbox. One that does not read keeps its bytes here for as long
// as it likes, which has to count as a connection.
func (c conn) end(ctx context.Context) {
	_ = c.Close()
	for pause := time.Millisecond; c.holds() && ctx.Err() == nil; pause = min(2*pause, time.Second) {
		time.Sleep(pause)
	}
}

// holds reports whether the sandbox has not yet got all, the end included.
func (c conn) holds() bool {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return true
	}
	return false
}

// accept ends the sandbox's handshake.
func accept(r *tcp.ForwarderRequest) (conn, error) {
	var wq waiter.Queue
	ep, err := r.CreateEndpoint(&wq)
	if err != nil {
		r.Complete(true)
		return conn{}, errors.New(err.String())
	}
	r.Complete(false)
	return conn{gonet.NewTCPConn(&wq, ep), ep}, nil
}

// named checks the name in the client's first bytes, without which the same
// address could serve another one, and passes them on.
func (g *Gateway) named(ctx context.Context, in, out net.Conn, to netip.AddrPort) bool {
	name, read, err := serverName(ctx, in, to.Port())
	if err == nil && !g.policy.name(name, to.Port()) {
		err = fmt.Errorf("%s is not in the step's list", name)
	}
	if err != nil {
		g.count.Refuse(fmt.Sprintf("%s: %v", to, err))
		return false
	}
	n, err := out.Write(read)
	g.count.Sent(n)
	return err == nil
}

// half is a connection whose one way can be closed, and that can be broken.
type half interface {
	net.Conn
	CloseWrite() error
	reset()
}

// outer is a connection of ours.
type outer struct{ *net.TCPConn }

func (o outer) reset() {
	_ = o.SetLinger(0)
	_ = o.Close()
}

func (c conn) reset() { c.ep.Abort() }

// copyBoth carries bytes both ways until both have ended.
func (g *Gateway) copyBoth(in, out half) {
	var both sync.WaitGroup
	carry := func(to, from half, count func(int)) {
		_, err := io.CopyBuffer(&counting{to, count}, onlyReader{from}, make([]byte, 64<<10))
		if err != nil { // the other way has nothing to go on for, and this one has not come to its end
			to.reset()
			from.reset()
			return
		}
		_ = to.CloseWrite()
	}
	both.Go(func() { carry(out, in, g.count.Sent) })
	carry(in, out, g.count.Received)
	both.Wait()
}

// onlyReader hides the ways around a buffer that is read into.
type onlyReader struct{ io.Reader }

type counting struct {
	io.Writer
	count func(int)
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.count(n)
	return n, err
}
