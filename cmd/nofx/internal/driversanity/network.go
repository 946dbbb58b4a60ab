package driversanity

import (
	"os"
	"os/exec"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/suite"
)

// network says what a plugin's sandboxes can call: what the caller says, or for
// a driver of this host the servers of a little Internet in namespaces that
// root can make; nil = nothing.
func (s *sanity) network() func(suite.T) suite.Network {
	if s.Network != nil {
		return s.Network
	}
	if _, err := exec.LookPath("ip"); err != nil || os.Geteuid() != 0 || !s.desc.Capabilities.Has(driver.CapHost) {
		return nil
	}
	return func(t suite.T) suite.Network {
		w := testnet.New(t)
		servers, other, private := w.Greeters(t)
		return suite.Network{
			Open:    func(t suite.T) suite.Instance { return s.open(t, w.Host()) },
			Servers: servers, Other: other, Private: private,
		}
	}
}
