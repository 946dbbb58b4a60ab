package memdriver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

var errRefused = errors.New("connection refused")

// call says what a server says first. Every address has one, in memory; only a
// sandbox that has no network of its own, and so the process's, reaches what
// really listens on this host's loopback.
func call(t *task, host, port string) (int, error) {
	said, err := t.x.sb.dial(host, port)
	if err != nil {
		return fail(t, err)
	}
	return say(t, said+"\n")
}

func (sb *sandbox) dial(host, port string) (string, error) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "", err
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", err
	}
	if sb.spec.Network == "" && addr.IsLoopback() {
		return firstLine(net.JoinHostPort(host, port))
	}
	if !sb.mayCall(addr, uint16(p)) {
		return "", errRefused
	}
	return "hello from " + net.JoinHostPort(host, port), nil
}

func firstLine(address string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	in := bufio.NewScanner(c)
	in.Scan()
	return in.Text(), in.Err()
}

// mayCall is the policy of the sandbox's network.
func (sb *sandbox) mayCall(addr netip.Addr, port uint16) bool {
	public := addr.IsGlobalUnicast() && !addr.IsPrivate()
	leave := public || named(sb.spec.Egress.Private, addr, port)
	switch sb.spec.Network {
	case "":
		return !addr.IsLoopback()
	case step.NetworkAllow:
		return leave && named(sb.spec.Egress.Allow, addr, port)
	case step.NetworkOpen:
		return leave
	}
	return false
}

// named reports whether one of the rules is of an address and port.
func named(rules []string, addr netip.Addr, port uint16) bool {
	for _, text := range rules {
		r, err := step.ParseRule(text)
		if err != nil || r.Domain != "" || !r.Prefix.Contains(addr) {
			continue
		}
		for _, p := range r.Ports {
			if p.First <= port && port <= p.Last {
				return true
			}
		}
	}
	return false
}

// checkEgress refuses rules that say nothing.
func checkEgress(e step.Egress) error {
	for _, rules := range [][]string{e.Allow, e.Private} {
		for _, text := range rules {
			if _, err := step.ParseRule(text); err != nil {
				return err
			}
		}
	}
	return nil
}

// proc is what the sandbox's kernel, if it had one, would say of itself.
func (sb *sandbox) proc(name string) (string, bool) {
	level := sb.spec.Isolation
	switch {
	case name == "/proc/version" && level == driver.IsolationGVisor:
		return "memory, as gVisor would have it\n", true
	case name == "/proc/version":
		return "memory\n", true
	case name == "/proc/self/status" && level != "":
		return "Seccomp:\t2\nNoNewPrivs:\t1\nCapEff:\t0000000000000000\n", true
	case name == "/proc/self/status":
		return "Seccomp:\t0\n", true
	case name == "/proc/net/route" && sb.spec.Network == step.NetworkNone:
		return "Iface\tDestination\n", true
	case name == "/proc/net/route":
		return "Iface\tDestination\nmem0\t00000000\n", true
	}
	return "", false
}

// busy uses the processor for a time by the clock on the wall.
func busy(t *task, args []string) (int, error) {
	d, err := seconds(args)
	if err != nil {
		return fail(t, err)
	}
	start := time.Now()
	if err := t.wait(d); err != nil {
		return 0, err
	}
	wall := time.Since(start)
	cpu := wall
	if c := t.x.sb.spec.Resources.CPU; c > 0 && c < 1 {
		cpu = time.Duration(float64(wall) * c)
	}
	t.x.used(cpu.Microseconds())
	return say(t, fmt.Sprintf("%d %d %d\n", cpu.Microseconds(), wall.Milliseconds(), cpu.Milliseconds()))
}

// transfer takes the time that a disk would to write a file and to read it.
func transfer(t *task, args []string) (int, error) {
	mib, err := number(args, 1)
	if err != nil {
		return fail(t, err)
	}
	var took [2]time.Duration
	for i := range took {
		start := time.Now()
		if rate := t.x.sb.spec.Resources.IOMBs; rate > 0 {
			if err := t.wait(time.Duration(mib) * time.Second / time.Duration(rate)); err != nil {
				return 0, err
			}
		}
		took[i] = time.Since(start)
	}
	return say(t, fmt.Sprintf("mem %d %d\n", took[0].Milliseconds(), took[1].Milliseconds()))
}
