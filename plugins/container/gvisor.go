package container

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

// probeUID is the root of the probe's sandbox, in which nothing runs: above
// what the daemon gives out.
const probeUID = 1<<32 - 16

// probeOwner is in place of an installation's name on such a sandbox.
const probeOwner = "nofx-probe"

// tryGVisor finds out whether the engine's runtime for gVisor makes sandboxes
// here: a level that a step can demand is one that was seen to work.
func (d *Driver) tryGVisor(ctx context.Context, s *setup) {
	if s.config.GVisorRuntime == "" {
		d.ForgetGVisor()
		return
	}
	d.UseGVisor(s.config.GVisorRuntime == s.config.Runtime, d.probe(ctx, s))
}

// probe makes a sandbox as a step gets it, with PID 1 in it ready, and removes
// it again.
func (d *Driver) probe(ctx context.Context, s *setup) error {
	if s.config.Image == "" {
		return errors.New("there is no image in the configuration to try the runtime with")
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if err := d.removeProbes(ctx); err != nil {
		return err
	}
	id := make([]byte, 8)
	_, _ = rand.Read(id)
	spec := driver.Spec{
		ID: "probe-" + hex.EncodeToString(id), Tags: driver.Tags{Owner: probeOwner, ID: "probe"},
		Resources: step.Resources{Pids: 16}, Isolation: driver.IsolationGVisor, Network: step.NetworkNone,
		Until: driver.After(2 * probeTime), Host: &driver.HostSpec{UIDBase: probeUID, UIDCount: 2},
	}
	h, err := d.Make(ctx, spec, d.start)
	if err != nil {
		return err
	}
	done, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTime)
	defer cancel()
	return d.Destroy(done, h)
}

// removeProbes removes what processes have left that died as they tried.
func (d *Driver) removeProbes(ctx context.Context) error {
	all, err := d.Boxes.List(ctx, probeOwner)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range all {
		if time.Since(l.CreatedAt) > 4*probeTime { // it has ended by itself
			errs = append(errs, d.Destroy(ctx, l.Handle))
		}
	}
	return errors.Join(errs...)
}
