package hostile

import "github.com/nofx-run/nofx/sdk/step"

// notTried begins what was seen of a row that has nothing to try on this host.
const notTried = "not tried"

// Row is one hostile program.
type Row struct {
	ID    string // of the table in the design
	Name  string
	Flags []string // for nofx exec
	// Before is a script that a step of its own runs to its end first, on the
	// same host.
	Before string
	// Script is run by /bin/sh. Beside it lies ./probe when Probe is set.
	Script string
	Probe  bool
	// Try is a command that must fail in the sandbox, as root's or not; with
	// Control it must succeed on the host, where it does no harm. $PROBE is the
	// probe there.
	Try     string
	Control string
	// Cause is how the step must end; exit, with code 0, when it is "".
	Cause []step.Cause
	// Out must be the step's whole standard output, when it is not "".
	Out string
	// Not lists what must not be in its output.
	Not []string
	// Told must be in what the command says of it, when it is not "".
	Told string
	// Artifacts are what is kept of its workspace.
	Artifacts []string
	// Look judges what it printed and what was kept of it, in dir: what is wrong.
	Look func(out, dir string) string
	// Play is instead of all that: it is not one step, or does not come to be one.
	// It tells what was seen, and what is wrong.
	Play func(p *play) (seen, wrong string)
	// On is the one driver that the row is for, "" = each.
	On string
	// Host says that the row is about the host's kernel: a step that has one of its
	// own has nothing to try.
	Host bool
	// Short says that CI runs it; the others are for make hostile.
	Short bool
}

// script is what the sandbox's shell gets.
func (r Row) script() string {
	if r.Try == "" {
		return r.Script
	}
	return "if (" + r.Try + ") >/dev/null 2>&1; then echo BROKEN; else echo held; fi"
}

// out is what it must print.
func (r Row) out() string {
	if r.Try != "" {
		return "held\n"
	}
	return r.Out
}
