package suite

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// greeting is what the suite's own server says.
const greeting = "the suite's own host"

func networkCases() []testCase {
	return []testCase{
		{"NetNone", netNone},
		{"NetAllow", func(t T, fx *fixture) {
			fx.need(t, driver.CapNetAllow, nil) // the refusal is in RefusesWhatItCannot
			on, net := fx.onNetwork(t)
			on.allows(t, net, "")
		}},
		{"NetOpen", func(t T, fx *fixture) {
			fx.need(t, driver.CapNetOpen, nil)
			on, net := fx.onNetwork(t)
			on.isOpen(t, net, "")
		}},
		{"NetGVisor", func(t T, fx *fixture) {
			fx.need(t, driver.CapNetGVisor, nil)
			on, net := fx.onNetwork(t)
			allow, open := on.desc.Capabilities.Has(driver.CapNetAllow), on.desc.Capabilities.Has(driver.CapNetOpen)
			if !allow && !open || !on.desc.Capabilities.Has(driver.CapIsolationGVisor) {
				t.Fatalf("the driver declares %s, and not %s with %s or %s", driver.CapNetGVisor, driver.CapIsolationGVisor, driver.CapNetAllow, driver.CapNetOpen)
			}
			if allow {
				on.allows(t, net, driver.IsolationGVisor)
			}
			if open {
				on.isOpen(t, net, driver.IsolationGVisor)
			}
		}},
	}
}

// netNone looks for a way out: a route, a server on this host's loopback that
// this process reaches, and servers beyond it where there are some.
func netNone(t T, fx *fixture) {
	fx.need(t, driver.CapNetNone, nil)
	none := func(s *driver.Spec) { s.Network = step.NetworkNone }
	routes := fx.run(t, fx.create(t, none), fx.exec(fx.Programs.Read("/proc/net/route")))
	if routes.exit.Code == 0 { // else it is no Linux, or hides it
		for i, line := range strings.Split(strings.TrimSpace(string(routes.stdout)), "\n") {
			if f := strings.Fields(line); i > 0 && len(f) > 1 && f[0] != "lo" {
				t.Errorf("without a network it has a route by %s: %q", f[0], line)
			}
		}
	}
	needProgram(t, "call", fx.Programs.Call != nil)
	address, calls := greet(t)
	conn, err := new(net.Dialer).DialContext(fx.ctx(t), "tcp", address)
	if err != nil {
		t.Fatalf("the suite's own server: %v", err)
	}
	said, err := io.ReadAll(conn)
	_ = conn.Close()
	if err != nil || string(said) != greeting+"\n" || calls.Load() != 1 {
		t.Fatalf("the suite's own server says %q (%v)", said, err)
	}
	if said := fx.call(t, address, none); said != "" || calls.Load() != 1 {
		t.Errorf("without a network it reaches a server on this host's %s: %q", address, said)
	}
	if fx.Network == nil || fx.gvisor(t) && !fx.desc.Capabilities.Has(driver.CapNetGVisor) {
		return
	}
	on, network := fx.onNetwork(t)
	for _, server := range network.Servers {
		if said := on.call(t, server, none); said != "" {
			t.Errorf("without a network it reaches %s: %q", server, said)
		}
	}
}

// greet serves a greeting on this host's loopback and counts the calls.
func greet(t T) (address string, calls *atomic.Int64) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.WithoutCancel(t.Context()), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	calls = new(atomic.Int64)
	ended := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			calls.Add(1)
			_, _ = io.WriteString(c, greeting+"\n")
			_ = c.Close()
		}
	}()
	return l.Addr().String(), calls
}

// onNetwork opens a driver whose sandboxes can call the servers of a network.
func (fx *fixture) onNetwork(t T) (*fixture, Network) {
	t.Helper()
	if fx.Network == nil {
		unjudged(t, "there is no network with servers to call")
	}
	needProgram(t, "call", fx.Programs.Call != nil)
	if fx.gvisor(t) && !fx.desc.Capabilities.Has(driver.CapNetGVisor) {
		unjudged(t, "its sandboxes have gVisor for a kernel here, and no network then")
	}
	n := fx.Network(t)
	f := fx.Factory
	if n.Open != nil {
		f.Open = n.Open
	}
	return open(t, f), n
}

// allows lets a sandbox call one server and another the other: each is reached
// by whom it is allowed to, and by nobody else.
func (fx *fixture) allows(t T, n Network, isolation string) {
	t.Helper()
	for i, allowed := range n.Servers {
		other := n.Servers[1-i]
		net := func(s *driver.Spec) {
			s.Network, s.Egress.Allow, s.Isolation = step.NetworkAllow, []string{allowed}, isolated(s, isolation)
		}
		if said := fx.call(t, allowed, net); said == "" {
			t.Errorf("allowed to call %s, it does not reach it", allowed)
		}
		if i == 0 && n.Other != "" { // the same host's
			if said := fx.call(t, n.Other, net, func(s *driver.Spec) { s.Egress.Allow = []string{n.Other} }); said == "" {
				t.Errorf("allowed to call %s, it does not reach it", n.Other)
			}
		}
		for _, refused := range []string{other, n.Other, n.Private} {
			if refused == "" {
				continue
			}
			if said := fx.call(t, refused, net); said != "" {
				t.Errorf("allowed to call %s alone, it reaches %s: %q", allowed, refused, said)
			}
		}
	}
}

// isOpen calls every server of the Internet, and what is not there only with
// leave.
func (fx *fixture) isOpen(t T, n Network, isolation string) {
	t.Helper()
	net := func(s *driver.Spec) { s.Network, s.Isolation = step.NetworkOpen, isolated(s, isolation) }
	for _, server := range n.Servers {
		if said := fx.call(t, server, net); said == "" {
			t.Errorf("with an open network it does not reach %s", server)
		}
	}
	if n.Private == "" {
		return
	}
	if said := fx.call(t, n.Private, net); said != "" {
		t.Errorf("with an open network it reaches %s, which is not on the Internet: %q", n.Private, said)
	}
	leave := func(s *driver.Spec) { s.Egress.Private = []string{n.Private} }
	if said := fx.call(t, n.Private, net, leave); said == "" {
		t.Errorf("with leave to call %s it does not reach it", n.Private)
	}
}

// isolated is the level that is asked for, or the factory's.
func isolated(s *driver.Spec, level string) string {
	if level == "" {
		return s.Isolation
	}
	return level
}

// call calls from a sandbox of its own and gives what it was told, "" if it did
// not get through.
func (fx *fixture) call(t T, address string, change ...func(*driver.Spec)) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	r := fx.run(t, fx.create(t, change...), fx.exec(fx.Programs.Call(host, port)))
	if r.exit.Code == 125 {
		unjudged(t, "the sandbox has no program to call with: %.200q", r.stderr)
	}
	if r.exit.Cause != step.CauseExit || r.exit.Code > 1 {
		t.Errorf("calling %s: exit %+v, %.200q", address, *r.exit, r.stderr)
	}
	return strings.TrimSpace(string(r.stdout))
}
