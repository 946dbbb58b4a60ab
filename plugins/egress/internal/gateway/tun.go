package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	tunPath = "/dev/net/tun"
	tunName = "net0"
)

// OpenTunnel makes the tunnel device in a network namespace and leads all of
// its traffic there; or takes the one that is made already. It gives the end that
// packets come out of.
func OpenTunnel(netns int, made bool) (tun int, _ error) {
	type result struct {
		tun int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its namespace with it
		tun, err := openTunnel(netns, made)
		done <- result{tun, err}
	}()
	r := <-done
	return r.tun, r.err
}

func openTunnel(netns int, made bool) (int, error) {
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		return -1, fmt.Errorf("the sandbox's network namespace: %w", err)
	}
	if made {
		return adopt()
	}
	tun, err := device()
	if err != nil {
		return -1, err
	}
	if err := address(everything); err != nil {
		_ = unix.Close(tun)
		return -1, err
	}
	return tun, nil
}

// MakeDevice makes the tunnel device in the namespace of this process, where
// nobody is at its other end yet, and brings up the loopback. Who reads its
// addresses and routes from there, as gVisor does, takes no route to everything
// that has no router: two halves do.
func MakeDevice() error {
	tun, err := device()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(tun) }()
	if err := unix.IoctlSetInt(tun, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("tunnel device: to stay: %w", err)
	}
	// The host's own stack of this namespace passes nothing on, whatever it was told
	// to do in new ones.
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forwarding: %w", err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return address(halves)
}

// adopt takes the device that MakeDevice has made, which ends with this one's holder
// from there on.
func adopt() (int, error) {
	if _, err := net.InterfaceByName(tunName); err != nil {
		return -1, fmt.Errorf("tunnel device: %w", err)
	}
	tun, err := device()
	if err != nil {
		return -1, err
	}
	if err := unix.IoctlSetInt(tun, unix.TUNSETPERSIST, 0); err != nil {
		_ = unix.Close(tun)
		return -1, fmt.Errorf("tunnel device: to go: %w", err)
	}
	return tun, nil
}

// device is the tunnel device of this thread's namespace, made if need be.
func device() (int, error) {
	// The device is made where its file was opened.
	tun, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", tunPath, err)
	}
	req, err := unix.NewIfreq(tunName)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(tun, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(tun)
		return -1, fmt.Errorf("tunnel device: %w", err)
	}
	return tun, nil
}

// family is an address of the sandbox's, and the routes that lead all of its
// kind to the device.
type family struct {
	addr   string
	routes []string
}

var (
	everything = []family{{sandbox4 + "/32", []string{"0.0.0.0/0"}}, {sandbox6 + "/128", []string{"::/0"}}}
	halves     = []family{{sandbox4 + "/32", []string{"0.0.0.0/1", "128.0.0.0/1"}}, {sandbox6 + "/128", []string{"::/1", "8000::/1"}}}
)

// address gives the device its addresses and the routes.
func address(families []family) error {
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
	for _, f := range families {
		addr, err := netlink.ParseAddr(f.addr)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			if addr.IP.To4() == nil {
				return nil // a kernel without IPv6
			}
			return fmt.Errorf("tunnel device: address: %w", err)
		}
		for _, text := range f.routes {
			_, to, err := net.ParseCIDR(text)
			if err != nil {
				return err
			}
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Src: addr.IP}); err != nil {
				return fmt.Errorf("tunnel device: route %s: %w", to, err)
			}
		}
	}
	return nil
}
