package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
)

func (a *app) runsCommand() *cobra.Command {
	return group("runs", "look at runs",
		a.runsListCommand(), a.runsGetCommand(), a.runsLogsCommand(), a.runsEventsCommand(), a.runsCancelCommand(), a.runsRetryCommand())
}

func (a *app) runsListCommand() *cobra.Command {
	var limit int
	var cursor string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list runs, newest first",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return step.Errorf(step.KindInvalid, "--limit %d: more than 0", limit)
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			list, err := client.Runs(cmd.Context(), limit, cursor)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error {
				rows := make([][]string, 0, len(list.Runs))
				for _, r := range list.Runs {
					rows = append(rows, []string{r.ID, string(r.Status), r.CreatedAt.Local().Format(time.DateTime), render.Cut(r.Title, 60)})
				}
				if err := render.Table(w, []string{"ID", "STATUS", "CREATED", "TITLE"}, rows); err != nil {
					return err
				}
				if list.NextCursor != "" {
					a.say("more: nofx runs list --limit %d --cursor %s", limit, list.NextCursor)
				}
				return nil
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so `many`")
	cmd.Flags().StringVar(&cursor, "cursor", "", "go on from here")
	return cmd
}

func (a *app) runsGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get RUN",
		Short: "show a run, its steps and artifacts",
		Args:  cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			detail, err := client.Run(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(detail, func(w io.Writer) error {
				fmt.Fprintf(w, "%s\n\n", render.Clean(detail.Run.Title))
				if err := render.Results(w, detail); err != nil {
					return err
				}
				for _, art := range detail.Artifacts {
					fmt.Fprintf(w, "get it: nofx artifacts get %s\n", render.Clean(art.Path))
				}
				return nil
			})
		}),
	}
}

func (a *app) runsEventsCommand() *cobra.Command {
	var following bool
	cmd := &cobra.Command{
		Use:   "events RUN",
		Short: "print a run's events",
		Args:  cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			if following {
				return a.followEvents(cmd.Context(), client, args[0])
			}
			events, err := client.Timeline(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(events, func(w io.Writer) error {
				rows := make([][]string, 0, len(events))
				for _, e := range events {
					rows = append(rows, eventRow(e))
				}
				return render.Table(w, []string{"SEQ", "TIME", "TYPE", "STEP", "ATTEMPT"}, rows)
			})
		}),
	}
	cmd.Flags().BoolVarP(&following, "follow", "f", false, "go on until the run has ended; with --json one event a line")
	return cmd
}

func eventRow(e step.Event) []string {
	attempt := ""
	if e.Attempt > 0 {
		attempt = strconv.Itoa(e.Attempt)
	}
	return []string{strconv.FormatInt(e.Seq, 10), e.CreatedAt.Local().Format("15:04:05.000"), string(e.Type), e.StepName, attempt}
}

// followEvents prints events as they come and opens the stream again where it
// broke off.
func (a *app) followEvents(ctx context.Context, client *server, runID string) error {
	after, ended, away := "", false, false
	if _, err := client.Run(ctx, runID); err != nil { // one that cannot be reached at all is not waited for
		return err
	}
	for {
		err := client.Events(ctx, runID, after, func(batch []step.Event) error {
			if away {
				a.say("the API is back")
			}
			away = false
			for _, e := range batch {
				after = e.ID
				if a.json {
					if err := line(a.Stdout, e); err != nil {
						return err
					}
				} else {
					row := eventRow(e)
					fmt.Fprintf(a.Stdout, "%4s  %s  %-18s %s %s\n", row[0], row[1], row[2], render.Clean(row[3]), row[4])
				}
				switch e.Type {
				case step.EventRunSucceeded, step.EventRunFailed, step.EventRunCancelled:
					ended = true
				case step.EventRunResumed:
					ended = false
				}
			}
			return nil
		})
		switch {
		case ended:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !step.Is(err, step.KindUnavailable):
			return err
		case err != nil && !away:
			away = true
			a.say("%s", render.Clean(err.Error()))
		}
		// The stream ended between two events: look again, not at once.
		timer := time.NewTimer(500 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (a *app) runsCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel RUN",
		Short: "cancel a run",
		Args:  cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			result, err := client.Cancel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s %s\n", result.ID, result.Status)
				return err
			})
		}),
	}
}
