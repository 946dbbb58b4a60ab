package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/interrupt"
	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
)

// Exit codes of all commands but exec.
const (
	exitOK     = 0
	exitFailed = 1 // the run failed
	exitUsage  = 2
	exitSystem = 3 // the system could not do it
)

// Exit codes of exec besides the step's own.
const (
	execTimeout = 124 // the step ran out of time
	execOther   = 125 // it ended in any other way than by its own exit, or NOFX failed
)

// code is an error that only says how to exit; everything was said already.
type code int

func (c code) Error() string { return fmt.Sprintf("exit %d", int(c)) }

// unsaid are the errors that were joined with a code, of which nothing was said
// yet.
func unsaid(err error) []error {
	var c code
	if !errors.As(err, &c) {
		return []error{err}
	}
	var all []error
	switch x := err.(type) { //nolint:errorlint // the tree itself is walked
	case interface{ Unwrap() []error }:
		for _, e := range x.Unwrap() {
			all = append(all, unsaid(e)...)
		}
	case interface{ Unwrap() error }:
		all = unsaid(x.Unwrap())
	}
	return all
}

// exit prints what is left to say about err and returns the exit code.
func (a *app) exit(cmd *cobra.Command, err error) int {
	if err == nil && a.unwritten() {
		if cmd.Name() == "exec" {
			return execOther
		}
		return exitSystem
	}
	if err == nil {
		return exitOK
	}
	var c code
	if errors.As(err, &c) {
		for _, e := range unsaid(err) {
			a.explain(e)
		}
		a.unwritten()
		return int(c)
	}
	var acted *actionError
	usage := !errors.As(err, &acted)
	if errors.Is(err, interrupt.ErrInterrupted) || errors.Is(err, context.Canceled) {
		a.say("%s", render.Clean(err.Error()))
	} else {
		a.explain(err)
	}
	if usage {
		a.say("see %s --help", cmd.CommandPath())
	}
	switch {
	case cmd.Name() == "exec":
		return execOther
	case usage, step.Is(err, step.KindInvalid), step.Is(err, step.KindTooLarge):
		return exitUsage
	}
	return exitSystem
}

// explain prints an error in one line, and one more for each field that the
// API found wrong. No field is told twice: the API's message is often the
// first of them.
func (a *app) explain(err error) {
	text := render.Clean(strings.ReplaceAll(err.Error(), "\n", "; "))
	if text == "" {
		text = "failed"
	}
	var fields []string
	var e *step.Error
	if errors.As(err, &e) {
		for _, f := range e.Fields {
			fields = append(fields, field(f, true))
		}
		if len(fields) > 0 {
			if before, found := strings.CutSuffix(text, field(e.Fields[0], false)); found && len(fields) == 1 {
				text, fields = before+fields[0], nil
			} else if found {
				text = fmt.Sprintf("%s%d things are wrong", before, len(fields))
			}
		}
	}
	a.say("%s", text)
	for _, f := range fields {
		a.say("  %s", f)
	}
}

// field is what is wrong with a field, with the value that it had.
func field(f step.FieldError, withValue bool) string {
	message := render.Clean(f.Message)
	if v, ok := f.Value.(string); ok && withValue {
		message = strconv.Quote(render.Clean(v)) + " " + message
	}
	return render.Clean(f.Location) + ": " + message
}

// ended is how a command that followed a run exits.
func ended(status step.RunStatus) error {
	if status == step.RunSucceeded {
		return nil
	}
	return code(exitFailed)
}
