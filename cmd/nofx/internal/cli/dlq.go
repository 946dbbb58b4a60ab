package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (a *app) dlqSubcommands() []*cobra.Command {
	return []*cobra.Command{a.dlqInspectCommand(), a.dlqRequeueCommand(), a.dlqDiscardCommand(), a.dlqExportCommand()}
}

func (a *app) dlqCommand() *cobra.Command {
	return group("dlq", "look at steps that failed for good, and try them again", a.dlqSubcommands()...)
}

// dlqAliases are the same commands as older scripts call them: dlq:inspect.
func (a *app) dlqAliases() []*cobra.Command {
	subs := a.dlqSubcommands()
	for _, cmd := range subs {
		cmd.Use, cmd.Hidden = "dlq:"+cmd.Use, true
	}
	return subs
}

// deadFlags choose entries.
type deadFlags struct{ tool, cause, driver, since, state string }

func (f *deadFlags) add(flags *pflag.FlagSet) {
	f.addBut(flags, "driver")
}

// addBut gives the flag for the driver another name, where its own is taken.
func (f *deadFlags) addBut(flags *pflag.FlagSet, driver string) {
	flags.StringVar(&f.tool, "tool", "", "of steps with this `tool`")
	flags.StringVar(&f.cause, "cause", "", "whose last attempt ended by this `cause`: exit, timeout, lost, …")
	flags.StringVar(&f.driver, driver, "", "of steps on this `driver`")
	flags.StringVar(&f.since, "since", "", "made since then: a `time` like 2026-11-01T00:00:00Z, a day like 2026-11-01, or a span back like 24h")
}

func (f *deadFlags) filter() (wire.DeadFilter, error) {
	since, err := moment("--since", f.since)
	if err != nil {
		return wire.DeadFilter{}, err
	}
	if f.cause != "" && !step.Cause(f.cause).Valid() {
		return wire.DeadFilter{}, step.Errorf(step.KindInvalid, "--cause %.60s: no cause of an end; one is exit, signal, timeout, oom, pids, disk, output, driver_error or lost", f.cause)
	}
	return wire.DeadFilter{Tool: f.tool, Cause: step.Cause(f.cause), Driver: f.driver, Since: since, State: f.state}, nil
}

func (a *app) dlqInspectCommand() *cobra.Command {
	var f deadFlags
	var limit int
	var cursor string
	cmd := &cobra.Command{
		Use:   "inspect [ID]",
		Short: "list the entries of the DLQ, or show one with its inputs and attempts",
		Args:  cobra.MaximumNArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			filter, err := f.filter()
			if err != nil {
				return err
			}
			if limit < 1 || limit > 200 {
				return step.Errorf(step.KindInvalid, "--limit %d: 1 to 200", limit)
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				entry, err := client.DeadStep(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(entry, func(w io.Writer) error { return showDead(w, entry) })
			}
			list, err := client.Dead(cmd.Context(), filter, limit, cursor)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error {
				rows := make([][]string, 0, len(list.Entries))
				for _, e := range list.Entries {
					rows = append(rows, []string{e.ID, e.CreatedAt.Local().Format(time.DateTime), e.State, e.Tool, e.StepName, e.Driver, string(e.Cause), strconv.Itoa(e.Attempts), render.Cut(e.Reason, 60)})
				}
				if err := render.Table(w, []string{"ID", "SINCE", "STATE", "TOOL", "STEP", "DRIVER", "CAUSE", "ATTEMPTS", "REASON"}, rows); err != nil {
					return err
				}
				if list.NextCursor != "" {
					a.say("more: the same with --cursor %s", list.NextCursor)
				}
				return nil
			})
		}),
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&f.state, "state", "open", "open, requeued, discarded or all")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so `many`")
	cmd.Flags().StringVar(&cursor, "cursor", "", "go on from here")
	return cmd
}

// showDead writes an entry for people.
func showDead(w io.Writer, e wire.DeadStepDetail) error {
	fmt.Fprintf(w, "%s  %s\n\n", e.ID, e.State)
	for _, row := range [][2]string{
		{"step", e.StepName + " (" + e.StepID + ", generation " + strconv.Itoa(e.Generation) + ")"}, {"run", e.RunID},
		{"tool", e.Tool}, {"driver", e.Driver}, {"cause", string(e.Cause)}, {"reason", e.Reason},
	} {
		fmt.Fprintf(w, "%-7s %s\n", row[0], render.Clean(row[1]))
	}
	if e.ResolvedAt != nil {
		fmt.Fprintf(w, "%-7s %s by %s\n", e.State, e.ResolvedAt.Local().Format(time.DateTime), render.Clean(e.ResolvedBy))
	}
	rows := make([][]string, 0, len(e.History))
	for _, h := range e.History {
		row := []string{strconv.Itoa(h.Attempt), "", "-", "-", h.WorkerID, ""}
		if h.EndedAt != nil {
			row[1] = h.EndedAt.Local().Format(time.DateTime)
		}
		if h.Verdict != nil {
			row[2], row[3], row[5] = h.Verdict.String(), render.Duration(time.Duration(h.Verdict.Usage.WallMS)*time.Millisecond), h.Verdict.Message
		}
		rows = append(rows, row)
	}
	fmt.Fprintln(w)
	if err := render.Table(w, []string{"ATTEMPT", "ENDED", "VERDICT", "WALL", "WORKER", "MESSAGE"}, rows); err != nil {
		return err
	}
	var inputs bytes.Buffer
	if err := json.Indent(&inputs, e.Inputs, "", "  "); err != nil {
		return fmt.Errorf("inputs of entry %s: %w", e.ID, err)
	}
	fmt.Fprintln(w, "\ninputs:")
	for line := range bytes.Lines(inputs.Bytes()) {
		fmt.Fprintln(w, render.Clean(string(bytes.TrimRight(line, "\n"))))
	}
	return nil
}

func (a *app) dlqExportCommand() *cobra.Command {
	var f deadFlags
	cmd := &cobra.Command{
		Use:   "export",
		Short: "print entries of the DLQ in full, one JSON value a line",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			filter, err := f.filter()
			if err != nil {
				return err
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			return client.ExportDead(cmd.Context(), filter, func(e wire.DeadStepDetail) error { return line(a.Stdout, e) })
		}),
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&f.state, "state", "open", "open, requeued, discarded or all")
	return cmd
}
