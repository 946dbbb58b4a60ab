// Package driversanity grades a driver plugin: it starts the executable as the
// daemon would and runs the conformance suite on it from outside, in a process
// that is killed and started again as the cases ask.
package driversanity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/nofx-run/nofx/internal/testhost"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc/launch"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/suite"
)

// Options say what to grade, and how.
type Options struct {
	Path     string
	Config   json.RawMessage // the driver's; empty = {}
	Programs Programs        // what its sandboxes run
	Image    string          // of every sandbox
	Only     *regexp.Regexp  // nil = every case
	Timeout  time.Duration   // of one case
	Parallel int             // cases at a time
	Patience float64         // multiplies the times that cases wait
	Done     func(Case)      // called as each case ends, one at a time; may be nil
	// Network is what sandboxes can call; nil = one that is made for the driver,
	// where that can be.
	Network func(suite.T) suite.Network
}

// startWait is how long a plugin may take to start: several do at a time.
const startWait = 30 * time.Second

// sanity is one run.
type sanity struct {
	Options
	desc driver.Description
	host *testhost.Host // for drivers on this host, else nil
	mark string         // a variable in the environment of all that runs in a sandbox
}

// ErrNotRoot refuses drivers whose sandboxes need what only root can make.
var ErrNotRoot = errors.New("this driver runs on its host (capability host): the suite must make control groups and uids for it, as root")

// Run grades a plugin. *launch.StartError and ErrNotRoot mean that nothing was
// tried.
func Run(ctx context.Context, o Options) (Report, error) {
	started := time.Now()
	s := &sanity{Options: o, mark: "NOFX_DRIVER_SANITY=" + testhost.Random()}
	if err := s.meet(ctx); err != nil {
		return Report{}, err
	}
	if s.desc.Capabilities.Has(driver.CapHost) {
		if os.Geteuid() != 0 {
			return Report{}, ErrNotRoot
		}
		s.host = testhost.New()
	}
	done := func(r suite.Result) {
		if o.Done != nil {
			o.Done(newCase(r))
		}
	}
	f := s.factory()
	f.Network = s.network()
	results := suite.Run(ctx, f, s.chosen(suite.Cases()), suite.Options{Timeout: o.Timeout, Parallel: o.Parallel, Done: done})
	// These look at processes, so they come when nothing else runs.
	for _, c := range s.processCases() {
		if o.Only == nil || o.Only.MatchString(c.name) {
			r := suite.Try(ctx, c.name, c.group, o.Timeout, c.run)
			results = append(results, r)
			done(r)
		}
	}
	if err := ctx.Err(); err != nil {
		return Report{}, err
	}
	return newReport(o, s.desc, results, time.Since(started)), nil
}

// meet starts the plugin once, to see that it can be graded at all.
func (s *sanity) meet(ctx context.Context) error {
	p, err := launch.Start(ctx, launch.Options{Path: s.Path, Wait: startWait})
	if err != nil {
		return err
	}
	defer p.Stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if s.desc, err = p.Driver().Describe(ctx); err != nil {
		return &launch.StartError{Reason: fmt.Errorf("describe: %w", err), Ended: p.Ended(), Stderr: p.LastLines()}
	}
	config := s.Config
	if len(config) == 0 {
		config = json.RawMessage(`{}`)
	}
	if err := p.Driver().Configure(ctx, config); err != nil {
		return &launch.StartError{Reason: fmt.Errorf("configure: %w", err), Ended: p.Ended(), Stderr: p.LastLines()}
	}
	return nil
}

// Knows reports whether a pattern chooses any case.
func Knows(only *regexp.Regexp) bool {
	s := &sanity{Options: Options{Only: only}}
	return len(s.chosen(suite.Cases())) > 0 ||
		slices.ContainsFunc(s.processCases(), func(c processCase) bool { return only.MatchString(c.name) })
}

func (s *sanity) chosen(all []suite.Case) []suite.Case {
	if s.Only == nil {
		return all
	}
	return slices.DeleteFunc(all, func(c suite.Case) bool { return !s.Only.MatchString(c.Name) })
}

// factory opens a process of the plugin for each case.
func (s *sanity) factory() suite.Factory {
	return suite.Factory{
		Config: s.Config, Programs: s.Programs, Patience: s.Patience, Caps: s.host != nil,
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", s.mark},
		Spec: func(t suite.T, spec *driver.Spec) {
			spec.Image = s.Image
			if s.host != nil {
				s.host.Fill(t, spec)
			}
		},
		Open: func(t suite.T) suite.Instance { return s.open(t, "") },
	}
}

// open starts a process of the plugin in a network namespace, "" for ours.
func (s *sanity) open(t suite.T, network string) suite.Instance {
	p := s.start(t, network)
	t.Cleanup(func() { p.Stop() })
	return suite.Instance{
		Driver: s.client(t, p), Conn: p.Conn(), Process: true,
		Restart: func(t suite.T) driver.Driver {
			p.Kill()
			p = s.start(t, network)
			return s.client(t, p)
		},
	}
}

func (s *sanity) start(t suite.T, network string) *launch.Process {
	p, err := launch.Start(t.Context(), launch.Options{Path: s.Path, Wait: startWait, Network: network})
	if err != nil {
		var e *launch.StartError
		if errors.As(err, &e) && len(e.Stderr) > 0 {
			t.Logf("its last words: %s", e.Stderr[len(e.Stderr)-1])
		}
		t.Fatalf("%v", err)
	}
	return p
}

func (s *sanity) client(t suite.T, p *launch.Process) driver.Driver {
	if s.host == nil {
		return p.Driver()
	}
	return limiting{Driver: p.Driver(), t: t, host: s.host}
}

// limiting does the daemon's part: it puts the caps of a spec on the control
// group that it made for it.
type limiting struct {
	driver.Driver
	t    suite.T
	host *testhost.Host
}

func (l limiting) Create(ctx context.Context, s driver.Spec) (driver.Handle, error) {
	if s.Host != nil && s.Host.Cgroup.V1 != nil || s.Host != nil && s.Host.Cgroup.V2 != "" {
		l.host.Limit(l.t, &s)
	}
	return l.Driver.Create(ctx, s)
}
