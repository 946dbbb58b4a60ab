// Package egress gives a sandbox on this host a way out that keeps to a
// policy: a gateway process of its own (nofx-egress), which ends the sandbox's
// connections and makes the allowed ones itself. It belongs to the sandbox and
// ends with the sandbox's supervisor; the driver and the daemon may come and go.
package egress

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Resolver is the address of a sandbox's name server, of the documentation's
// range, which stands for nothing else anywhere.
const Resolver = "192.0.2.1"

// ResolvConf is what a networked sandbox has in /etc/resolv.conf.
const ResolvConf = "nameserver " + Resolver + "\n"

// Policy says whom a sandbox may call.
type Policy struct {
	Open    bool     `json:"open"`              // every address of the Internet; otherwise Allow
	Allow   []string `json:"allow,omitempty"`   // rules as step.ParseRule reads them
	Private []string `json:"private,omitempty"` // rules with prefixes: what may be called though it is not on the Internet
}

// Config is what a gateway is started with.
type Config struct {
	Policy
	Resolvers []string `json:"resolvers"` // name servers to ask, ADDRESS:PORT
	UID       uint32   `json:"uid"`       // to run as
	Root      string   `json:"root"`      // an empty folder to be shut in
	Made      bool     `json:"made"`      // the sandbox's device is there already
}

// The descriptors that a gateway's process is started with.
const (
	FDConfig   = 3 + iota // to be read to its end
	FDNetNS               // the sandbox's network namespace
	FDCounters            // a file of CountersSize bytes, locked for as long as the gateway lives
	FDPeer                // pidfd of the sandbox's supervisor: the gateway ends with it
	FDReady               // gets ReadyWord when the network is there, or what went wrong
)

// ReadyWord is what a gateway says when it serves.
const ReadyWord = "ok"

// Sandbox is what a gateway is started for.
type Sandbox struct {
	Dir        string // its folder, root's own
	PID        int    // a process in its network namespace
	Supervisor int    // the process that the gateway ends with
	UID        uint32 // a host uid that is the sandbox's alone
	Group      driver.Cgroup
	Policy     Policy
	Made       bool // its device was made by the command of Device
}

// Host starts gateways on this host.
type Host struct {
	Path      string   // of nofx-egress
	Resolvers []string // name servers to ask, ADDRESS:PORT
}

// NewHost looks whether sandboxes can have a network here. The error says in
// words for operators what is missing. No resolvers means those of the host.
func NewHost(path string, resolvers []string) (*Host, error) {
	st, err := os.Stat(path)
	if err != nil || !st.Mode().IsRegular() {
		return nil, step.Errorf(step.KindUnavailable, "no program %s", path)
	}
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, step.Errorf(step.KindUnavailable, "/dev/net/tun: %w", err)
	}
	_ = unix.Close(tun)
	if len(resolvers) == 0 {
		resolvers = hostResolvers("/etc/resolv.conf")
	}
	return &Host{Path: path, Resolvers: resolvers}, nil
}

// CheckResolvers checks the form of name servers in a configuration.
func CheckResolvers(list []string) error {
	for _, text := range list {
		if _, err := netip.ParseAddrPort(text); err != nil {
			return step.Errorf(step.KindInvalid, "configuration: resolvers: %.80q is not ADDRESS:PORT, such as 192.0.2.53:53", text)
		}
	}
	return nil
}

// WriteResolvConf makes a file that is shown as /etc/resolv.conf in sandboxes
// whose root file system has one of its own, and gives its path.
func WriteResolvConf(stateDir string) (string, error) {
	path := filepath.Join(stateDir, ".resolv.conf")                                                                    // no sandbox's id begins with a dot
	err := renameio.WriteFile(path, []byte(ResolvConf), 0o644, renameio.WithTempDir(stateDir), renameio.IgnoreUmask()) // every step reads it
	if err != nil {
		return "", step.Errorf(step.KindInvalid, "configuration: state_dir: %w", err)
	}
	return path, nil
}

// hostResolvers are the name servers that a file like /etc/resolv.conf names.
func hostResolvers(path string) []string {
	var out []string
	data, err := os.ReadFile(path)
	if err == nil {
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "nameserver" {
				continue
			}
			if a, err := parseAddr(f[1]); err == nil {
				out = append(out, a)
			}
		}
	}
	if len(out) == 0 {
		out = []string{"127.0.0.1:53"} // as the C library does
	}
	return out[:min(len(out), 3)]
}

const (
	countersFile = "network"
	pidFile      = "network.pid"
	rootFolder   = "network.root"
)

// Ready reports whether a sandbox's gateway has begun to serve, be it ended or
// not.
func Ready(dir string) bool {
	u, err := ReadUse(dir)
	return err == nil && u.Ready
}

// Stop ends a sandbox's gateway, if it has one that lives, and waits for it.
func Stop(ctx context.Context, dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, countersFile), os.O_RDWR, 0)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return step.Errorf(step.KindInternal, "network: %w", err)
	}
	defer f.Close()
	return stop(ctx, dir, f)
}
