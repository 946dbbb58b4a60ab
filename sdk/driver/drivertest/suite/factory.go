package suite

import (
	"encoding/json"
	"time"

	"google.golang.org/grpc"

	"github.com/nofx-run/nofx/sdk/driver"
)

// Factory says how to come by a driver and what to run in it. The fields are
// explained at drivertest.Factory.
type Factory struct {
	Open       func(t T) Instance
	Config     json.RawMessage
	Spec       func(t T, spec *driver.Spec)
	Caps       bool
	Programs   Programs
	Env        []string
	OutsideDir string
	Network    func(t T) Network // nil = a driver's networks are not judged
	Patience   float64
}

// Network is a network with servers in it, explained at drivertest.Network.
type Network struct {
	Open    func(t T) Instance
	Servers [2]string
	Other   string
	Private string
}

// Instance is one running driver.
type Instance struct {
	// Driver is a client of it, through the wire.
	Driver driver.Driver
	// Restart kills the driver's process, starts another and gives a client of
	// that. A driver with CapReattach must have it.
	Restart func(t T) driver.Driver
	// Conn is the connection below Driver, for messages that no client of ours
	// would send; nil = those cases are skipped.
	Conn grpc.ClientConnInterface
	// Process says that Restart kills a process, in the middle of whatever it
	// does.
	Process bool
}

// Group is what a case is about.
type Group string

const (
	GroupProtocol    Group = "protocol"
	GroupIdempotency Group = "idempotency"
	GroupExec        Group = "exec"
	GroupOutput      Group = "output"
	GroupEnding      Group = "ending"
	GroupRecovery    Group = "recovery"
	GroupFiles       Group = "files"
	GroupCaps        Group = "caps"
	GroupNetwork     Group = "network"
	GroupHostile     Group = "hostile"
)

// Case is one promise.
type Case struct {
	Name  string
	Group Group
	Alone bool // it needs a machine that is not busy with others
	run   func(t T, fx *fixture)
}

// Run checks the promise on a driver of its own.
func (c Case) Run(t T, f Factory) {
	t.Helper()
	c.run(t, open(t, f.withDefaults()))
}

// Cases are all of them, in the order in which they are told.
func Cases() []Case {
	var all []Case
	for _, g := range []struct {
		group Group
		cases []testCase
	}{
		{GroupProtocol, describeCases()},
		{GroupProtocol, hostCases()},
		{GroupIdempotency, createCases()},
		{GroupExec, execCases()},
		{GroupOutput, outputCases()},
		{GroupEnding, endCases()},
		{GroupEnding, unwatchedCases()},
		{GroupRecovery, lifeCases()},
		{GroupRecovery, killCases()},
		{GroupEnding, stageCases()},
		{GroupFiles, fileCases()},
		{GroupCaps, capCases()},
		{GroupNetwork, networkCases()},
		{GroupHostile, isolationCases()},
		{GroupHostile, apartCases()},
		{GroupHostile, hostileCases()},
	} {
		for _, c := range g.cases {
			group := g.group
			switch c.name { // about files, and about a way out
			case "CopyInRefusesEscapes", "CopyInStaysInTheSandbox", "CopyOutStaysInTheSandbox":
				group = GroupHostile
			}
			all = append(all, Case{Name: c.name, Group: group, Alone: c.name == "CPUCap", run: c.run})
		}
	}
	return all
}

// testCase is one promise before it has a group.
type testCase struct {
	name string
	run  func(t T, fx *fixture)
}

func (f Factory) withDefaults() Factory {
	if f.Env == nil {
		f.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	if f.Patience == 0 {
		f.Patience = 1
	}
	if len(f.Config) == 0 {
		f.Config = json.RawMessage(`{}`)
	}
	return f
}

// long is how long anything that should happen soon may take.
func (f Factory) long() time.Duration { return time.Duration(f.Patience * float64(30*time.Second)) }
