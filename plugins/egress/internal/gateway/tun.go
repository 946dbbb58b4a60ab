package gateway

import (
	"fmt"
	"net"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	tunPath = "/dev/net/tun"
	tunName = "net0"
)

// OpenTunnel makes the tunnel device in a network namespace and leads all of
// its traffic there. It gives the end that packets come out of.
func OpenTunnel(netns int) (tun int, _ error) {
	type result struct {
		tun int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its namespace with it
		tun, err := openTunnel(netns)
		done <- result{tun, err}
	}()
	r := <-done
	return r.tun, r.err
}

func openTunnel(netns int) (_ int, err error) {
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		return -1, fmt.Errorf("the sandbox's network namespace: %w", err)
	}
	// The device is made where its file was opened.
	tun, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", tunPath, err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(tun)
		}
	}()
	req, err := unix.NewIfreq(tunName)
	if err != nil {
		return -1, err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, req); err != nil {
		return -1, fmt.Errorf("tunnel device: %w", err)
	}
	return tun, address()
}

// address gives the device its addresses and the routes.
func address() error {
	link, err := netlink.LinkByName(tunName)
	if err != nil {
		return fmt.Errorf("tunnel device: %w", err)
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("tunnel device: mtu: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("tunnel device: up: %w", err)
	}
	for _, f := range []struct{ addr, all string }{{sandbox4 + "/32", "0.0.0.0/0"}, {sandbox6 + "/128", "::/0"}} {
		addr, err := netlink.ParseAddr(f.addr)
		if err != nil {
			return err
		}
		_, all, err := net.ParseCIDR(f.all)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			if all.IP.To4() == nil {
				return nil // a kernel without IPv6
			}
			return fmt.Errorf("tunnel device: address: %w", err)
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Src: addr.IP}); err != nil {
			return fmt.Errorf("tunnel device: route %s: %w", all, err)
		}
	}
	return nil
}
