package testnet

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

// Greeter serves TCP at an address: it says hello and then what it hears. It
// counts the connections.
func (n *Net) Greeter(t T, address string) *atomic.Int64 {
	t.Helper()
	var count atomic.Int64
	l := n.Listen(t, address)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			go func() {
				defer func() { _ = c.Close() }()
				if _, err := io.WriteString(c, "hello from "+address+"\n"); err == nil {
					_, _ = io.Copy(c, c)
				}
			}()
		}
	}()
	return &count
}

// Greeters serves two addresses of the Internet, the first one's at another port as
// well, and one of a private network.
func (n *Net) Greeters(t T) (servers [2]string, other, private string) {
	t.Helper()
	servers, other, private = [2]string{Server + ":5000", OtherServer + ":5000"}, Server+":5001", Private+":5432"
	for _, a := range []string{servers[0], servers[1], other, private} {
		n.Greeter(t, a)
	}
	return servers, other, private
}

// Echo serves UDP at an address.
func (n *Net) Echo(t T, address string) *atomic.Int64 {
	t.Helper()
	var count atomic.Int64
	c := n.ListenPacket(t, address)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			count.Add(1)
			_, _ = c.WriteTo(buf[:k], from)
		}
	}()
	return &count
}

// Names serves names at DNS: addresses by name, without a final dot, and other
// records like "TXT text", "MX name." and "SRV name.". Names may be changed by
// calling set. It counts the questions.
func (n *Net) Names(t T, names map[string][]string) (count *atomic.Int64, set func(map[string][]string)) {
	t.Helper()
	var table atomic.Pointer[map[string][]string]
	table.Store(&names)
	count = &atomic.Int64{}
	c := n.ListenPacket(t, net.JoinHostPort(DNS, "53"))
	go func() {
		buf := make([]byte, 4096)
		for {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			count.Add(1)
			if answer := answer(buf[:k], *table.Load()); answer != nil {
				_, _ = c.WriteTo(answer, from)
			}
		}
	}()
	return count, func(next map[string][]string) { table.Store(&next) }
}

func answer(query []byte, names map[string][]string) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	addrs, known := names[strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")]
	switch {
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case addrs == nil: // nobody knows
		m.RCode = dnsmessage.RCodeServerFailure
	}
	for _, text := range addrs {
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}
		if kind, rest, ok := strings.Cut(text, " "); ok {
			if kind == strings.TrimPrefix(q.Type.String(), "Type") {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: other(q.Type, rest)})
			}
			continue
		}
		a := netip.MustParseAddr(text)
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// other is a record that is no address.
func other(kind dnsmessage.Type, text string) dnsmessage.ResourceBody {
	switch kind {
	case dnsmessage.TypeMX:
		return &dnsmessage.MXResource{Pref: 10, MX: dnsmessage.MustNewName(text)}
	case dnsmessage.TypeSRV:
		return &dnsmessage.SRVResource{Priority: 1, Weight: 2, Port: 443, Target: dnsmessage.MustNewName(text)}
	}
	return &dnsmessage.TXTResource{TXT: []string{text}}
}
