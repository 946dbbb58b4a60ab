package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/driversanity"
	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc/launch"
)

// sanityFlags are those of driver-sanity.
type sanityFlags struct {
	config, programs, image, only, junit string
	reach                                []string
	timeout                              time.Duration
	parallel                             int
	patience                             float64
	verbose                              bool
}

func (a *app) driverSanityCommand() *cobra.Command {
	var f sanityFlags
	cmd := &cobra.Command{
		Use:   "driver-sanity PATH",
		Short: "run the conformance suite on a driver plugin and grade it",
		Long: "Starts the driver plugin at PATH as the daemon would, and checks from outside that it keeps the\n" +
			"contract of drivers: protocol, idempotency, recovery after kill -9, output offsets, cancellation,\n" +
			"caps, files, hostile input, leaks. Sandboxes are made and destroyed; nothing else may use the driver.\n\n" +
			"A driver with the capability host needs root: control groups, uids and a network are made for it.\n" +
			"The networks net.allow and net.open of another are judged with servers that --reach names: nothing\n" +
			"else is called but a server of the suite's own on this host's loopback, which no sandbox may reach.\n" +
			"What the driver declares and cannot be judged is listed, and costs an A where it bounds a step.\n\n" +
			"The grade:\n" + driversanity.Rule + "\n\n" +
			"Exit codes: 0 no case failed, 1 a case failed, 2 usage, 3 the plugin could not be started.",
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", "", "the driver's configuration, a `FILE` of JSON (default {})")
	flags.StringVar(&f.junit, "junit", "", "write the results as JUnit XML to `FILE`")
	flags.StringVar(&f.programs, "programs", "shell", "what to run in sandboxes: shell (sh and the usual tools), memory, or a `FILE` of JSON with argument lists")
	flags.StringVar(&f.image, "image", "", "the image of every sandbox (default the driver's own)")
	flags.StringArrayVar(&f.reach, "reach", nil, "`ADDRESS:PORT` of a TCP server that the driver takes for one on the Internet and that says a line to whoever connects; given twice, for two servers")
	flags.StringVar(&f.only, "only", "", "run the cases whose names match this `REGEXP` alone; there is no grade then")
	flags.DurationVar(&f.timeout, "timeout", 3*time.Minute, "the time that one case may take")
	flags.IntVar(&f.parallel, "parallel", 4, "cases at a time")
	flags.Float64Var(&f.patience, "patience", 2, "multiplies the times that cases wait for the driver")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "show in full what was seen")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opts, err := f.options(args[0])
		if err != nil {
			return err // of usage
		}
		return run(func(cmd *cobra.Command, _ []string) error { return a.driverSanity(cmd, opts, f) })(cmd, args)
	}
	return cmd
}

func (f sanityFlags) options(path string) (driversanity.Options, error) {
	o := driversanity.Options{Path: path, Image: f.image, Timeout: f.timeout, Parallel: f.parallel, Patience: f.patience}
	if f.timeout <= 0 || f.parallel < 1 || f.parallel > 64 || f.patience <= 0 || f.patience > 100 {
		return o, errors.New("--timeout and --patience (at most 100) must be positive, --parallel 1 to 64")
	}
	var err error
	if f.config != "" {
		if o.Config, err = os.ReadFile(f.config); err != nil {
			return o, err
		}
		if !json.Valid(o.Config) {
			return o, fmt.Errorf("%s is not JSON", f.config)
		}
	}
	if o.Programs, err = driversanity.FindPrograms(f.programs); err != nil {
		return o, err
	}
	if f.programs == "memory" {
		o.Network = driversanity.InMemoryNetwork
	}
	if len(f.reach) > 0 {
		if o.Network, err = driversanity.Reaching(f.reach); err != nil {
			return o, fmt.Errorf("--reach: %w", err)
		}
	}
	if f.only != "" {
		if o.Only, err = regexp.Compile(f.only); err != nil {
			return o, fmt.Errorf("--only: %w", err)
		}
		if !driversanity.Knows(o.Only) { // nothing failed, for nothing was tried
			return o, fmt.Errorf("--only: no case has a name that matches %q", f.only)
		}
	}
	return o, nil
}

func (a *app) driverSanity(cmd *cobra.Command, o driversanity.Options, f sanityFlags) error {
	o.Done = func(c driversanity.Case) {
		if c.Status == "failed" {
			a.say("%s failed: %s", c.Name, render.Cut(render.Clean(strings.Join(c.Seen, "; ")), 200))
		}
	}
	report, err := driversanity.Run(cmd.Context(), o)
	if err != nil {
		a.explain(err)
		var start *launch.StartError
		if errors.As(err, &start) {
			for _, l := range start.Stderr {
				a.say("  its stderr: %s", render.Clean(l))
			}
		}
		return code(exitSystem)
	}
	if err := a.print(report, func(w io.Writer) error { return printReport(w, report, f.verbose) }); err != nil {
		return err
	}
	if f.junit != "" { // after the table, which took minutes to come by
		if err := writeJUnit(f.junit, report); err != nil {
			return err
		}
	}
	if report.Failed > 0 {
		return code(exitFailed)
	}
	return nil
}

func writeJUnit(name string, r driversanity.Report) error {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(r.JUnit(out), out.Close())
}

func printReport(w io.Writer, r driversanity.Report, verbose bool) error {
	rows := make([][]string, 0, len(r.Cases))
	for _, c := range r.Cases {
		seen := strings.Join(c.Seen, "; ")
		if !verbose {
			seen = render.Cut(seen, 100)
		}
		rows = append(rows, []string{c.Name, c.Group, c.Status, render.Duration(time.Duration(c.DurationMS) * time.Millisecond), seen})
	}
	if err := render.Table(w, []string{"CASE", "GROUP", "RESULT", "TIME", "SEEN"}, rows); err != nil {
		return err
	}
	text := fmt.Sprintf("\n%s %s: %d passed, %d failed, %d skipped in %s\n", render.Clean(r.Driver), render.Clean(r.Version),
		r.Passed, r.Failed, r.Skipped, render.Duration(time.Duration(r.DurationMS)*time.Millisecond))
	for _, warning := range r.Warnings {
		text += "it warns: " + render.Clean(warning) + "\n"
	}
	for _, g := range r.Unjudged {
		text += fmt.Sprintf("%s is declared and was not judged: %s\n", render.Clean(g.Capability), render.Clean(g.Reason))
	}
	if r.Grade != "" {
		text += fmt.Sprintf("grade %s: %s\n", r.Grade, render.Clean(r.Reason))
	}
	_, err := io.WriteString(w, text)
	return err
}
