package supervised

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// probeTime bounds the making of one sandbox, to see whether it can be made.
const probeTime = 20 * time.Second

// probeUID is the root of a probe's sandbox, in which nothing runs: above what
// the daemon gives out.
const probeUID = 1<<32 - 16

// probeOwner is in place of an installation's name on such a sandbox.
const probeOwner = "nofx-probe"

// Probe makes a sandbox of that level as a step gets it, with PID 1 in it
// ready, and removes it again.
func (b *Boxes) Probe(ctx context.Context, level string, network step.Network, start StartFunc) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if err := b.removeProbes(ctx); err != nil {
		return err
	}
	id := make([]byte, 8)
	_, _ = rand.Read(id)
	spec := driver.Spec{
		ID: "probe-" + hex.EncodeToString(id), Tags: driver.Tags{Owner: probeOwner, ID: "probe"},
		Resources: step.Resources{Pids: 16}, Isolation: level, Network: network,
		Until: driver.After(2 * probeTime), Host: &driver.HostSpec{UIDBase: probeUID, UIDCount: 2},
	}
	h, err := b.Make(ctx, spec, start)
	if err != nil {
		return err
	}
	done, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTime)
	defer cancel()
	return b.Destroy(done, h)
}

// removeProbes removes what processes have left that died as they tried.
func (b *Boxes) removeProbes(ctx context.Context) error {
	all, err := b.List(ctx, probeOwner)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range all {
		if time.Since(l.CreatedAt) > 4*probeTime { // it has ended by itself
			errs = append(errs, b.Destroy(ctx, l.Handle))
		}
	}
	return errors.Join(errs...)
}
