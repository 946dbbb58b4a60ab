package supervised

import (
	"errors"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// levels are the isolation levels of a driver's sandboxes.
type levels struct {
	gvisor bool  // sandboxes can have gVisor for a kernel
	always bool  // and have it whatever they ask for
	why    error // they cannot; nil: nobody wanted it
	net    bool  // and have a network
	whyNet error // they cannot have one; nil: no driver of this kind can
}

// errNoGVisor is why a driver does not have the level that nobody configured.
var errNoGVisor = errors.New("its configuration names no runsc")

// errNoGVisorNetwork is why a driver whose sandboxes somebody else starts gives none
// a network: gVisor takes over the devices that it finds when it starts.
var errNoGVisorNetwork = errors.New("its sandboxes are started before the gateway's device could be there")

// UseGVisor says that sandboxes can have gVisor for a kernel, all of them or
// those that ask for it, or why they cannot.
func (b *Boxes) UseGVisor(always bool, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.levels = levels{gvisor: why == nil, always: always, why: why}
}

// UseGVisorNetwork says that sandboxes with gVisor for a kernel can have a network,
// or why they cannot. It follows UseGVisor.
func (b *Boxes) UseGVisorNetwork(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.levels.net, b.levels.whyNet = why == nil, why
}

// ForgetGVisor says that the configuration does not want it.
func (b *Boxes) ForgetGVisor() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.levels = levels{}
}

// GVisor reports whether a sandbox of that spec has gVisor for a kernel.
func (b *Boxes) GVisor(s driver.Spec) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return s.Isolation == driver.IsolationGVisor || b.levels.always
}

// Levels are the capabilities that a driver has for isolation, and a warning
// for operators when it lacks one that they want.
func (b *Boxes) Levels() (caps driver.Capabilities, warning string) {
	caps = driver.Capabilities{driver.CapIsolationNamespace}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.levels.gvisor:
		caps = append(caps, driver.CapIsolationGVisor)
		if b.levels.net {
			caps = append(caps, driver.CapNetGVisor)
		} else if b.levels.whyNet != nil {
			warning = "no sandbox with gVisor for a kernel can have a network: " + b.levels.whyNet.Error()
		}
	case b.levels.why != nil:
		warning = "no sandbox can have gVisor for a kernel: " + b.levels.why.Error()
	}
	return caps, warning
}

// checkLevel refuses an isolation that this driver does not have, and what its
// level cannot do.
func (b *Boxes) checkLevel(s driver.Spec) error {
	b.mu.Lock()
	l := b.levels
	b.mu.Unlock()
	switch s.Isolation {
	case "", driver.IsolationNamespace:
	case driver.IsolationGVisor:
		if !l.gvisor {
			why := l.why
			if why == nil {
				why = errNoGVisor
			}
			return step.Errorf(step.KindUnsupported, "driver %s: isolation gvisor: %w", b.name, why)
		}
	default:
		return step.Errorf(step.KindUnsupported, "driver %s: isolation %.40q is namespace or gvisor", b.name, s.Isolation)
	}
	if !b.GVisor(s) || !Networked(s) || l.net {
		return nil
	}
	why := l.whyNet
	if why == nil {
		why = errNoGVisorNetwork
	}
	return step.Errorf(step.KindUnsupported, "driver %s: no network with gVisor for a kernel: %w", b.name, why)
}
