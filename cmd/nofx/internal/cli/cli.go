// Package cli is the nofx command.
//
// What goes where: stdout gets data, as text for people or as JSON with
// --json; stderr gets progress, results of following that are not data, and
// errors, one line each. Nothing but the step's own bytes is on stdout of
// `nofx exec`. Redrawing happens only on a terminal, otherwise lines are only
// ever added.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Env is what the command gets from its process.
type Env struct {
	Args   []string // without the program's name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string
	// Again is closed at the second interrupt; the first ends the context.
	Again <-chan struct{}
}

// Main runs the command and returns its exit code.
func Main(ctx context.Context, env Env) int {
	out := &kept{w: env.Stdout}
	env.Stdout = out
	app := &app{Env: env, out: out}
	root := app.root()
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return app.exit(cmd, err)
}

// app carries what every command needs.
type app struct {
	Env
	json bool
	out  *kept // what Env.Stdout is
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "nofx",
		Short: "run untrusted steps safely",
		Long: "nofx runs untrusted steps safely, on the driver that each step chooses, and never loses one.\n\n" +
			"It finds the server by NOFX_API_URL, NOFX_API_KEY and NOFX_CA_FILE, or by the local `nofx up`\n" +
			"(.nofx/client.env, here or in a folder above).\n\n" +
			"Exit codes: 0 ok, 1 the run failed, 2 usage, 3 the system could not do it. nofx exec has its own.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print data as JSON")
	root.AddCommand(
		a.upCommand(),
		a.execCommand(),
		a.runCommand(),
		a.runsCommand(),
		a.dlqCommand(),
		a.artifactsCommand(),
		a.workersCommand(),
		a.usageCommand(),
		a.alertsCommand(),
		a.doctorCommand(),
		a.sweepCommand(),
		a.rootfsCommand(),
		a.driversCommand(),
		a.driverSanityCommand(),
		a.handlersCommand(),
		a.versionCommand(),
	)
	root.AddCommand(a.dlqAliases()...)
	return root
}

// action is a command's own work. Errors from before it are usage errors.
type action func(cmd *cobra.Command, args []string) error

func run(do action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := do(cmd, args); err != nil {
			return &actionError{err}
		}
		return nil
	}
}

// actionError marks errors that a command's action returned.
type actionError struct{ err error }

func (e *actionError) Error() string { return e.err.Error() }
func (e *actionError) Unwrap() error { return e.err }

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.New("which one? see " + cmd.CommandPath() + " --help")
		},
	}
	cmd.AddCommand(subs...)
	return cmd
}

// print writes v as JSON with --json, else lets text do it.
func (a *app) print(v any, text func(io.Writer) error) error {
	if !a.json {
		return text(a.Stdout)
	}
	enc := json.NewEncoder(a.Stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// line writes v as one line of JSON.
func line(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func (a *app) say(format string, args ...any) {
	fmt.Fprintf(a.Stderr, "nofx: "+format+"\n", args...)
}
