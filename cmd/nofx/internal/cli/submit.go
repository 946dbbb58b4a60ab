package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nofx-run/nofx/cmd/nofx/internal/follow"
	"github.com/nofx-run/nofx/cmd/nofx/internal/interrupt"
	"github.com/nofx-run/nofx/cmd/nofx/internal/onestep"
	"github.com/nofx-run/nofx/cmd/nofx/internal/planfile"
	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (a *app) runCommand() *cobra.Command {
	var file, at string
	var following bool
	var priority int
	var in time.Duration
	var regions []string
	cmd := &cobra.Command{
		Use:   "run -f PLAN",
		Short: "submit a plan",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			submission, err := planfile.Read(file, a.Stdin)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("priority") {
				submission.Plan.Priority = priority
			}
			if err := later(&submission.Plan, at, in); err != nil {
				return err
			}
			if cmd.Flags().Changed("region") {
				if submission.Plan.Region, submission.Plan.Regions, err = onestep.Regions(regions); err != nil {
					return err
				}
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			if following {
				return a.submitAndFollow(cmd.Context(), client, submission)
			}
			created, err := a.submit(cmd.Context(), client, submission)
			if err != nil {
				return err
			}
			return a.print(created, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, created.ID)
				return err
			})
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "the plan, a .json or .yaml `file`, - for stdin")
	f.IntVar(&priority, "priority", 0, "`number` from -10 to 10, in the place of the plan's: what waits goes by it first, then by its age")
	f.StringVar(&at, "at", "", "begin at this `time` (RFC 3339), not before")
	f.DurationVar(&in, "in", 0, "begin after this time, not before")
	f.StringSliceVar(&regions, "region", nil, "the `region` of the steps that name none, in place of the plan's; more than one, with commas: an order")
	f.BoolVar(&following, "follow", false, "show the run until it has ended and exit with its status")
	if err := cmd.MarkFlagRequired("file"); err != nil {
		panic(err) // the flag was defined two lines above
	}
	return cmd
}

// later puts a plan off.
func later(p *wire.Plan, at string, in time.Duration) error {
	switch {
	case at != "" && in != 0:
		return step.Errorf(step.KindInvalid, "--at and --in: give one of them")
	case in < 0:
		return step.Errorf(step.KindInvalid, "--in %v: must not be negative", in)
	case in > 0:
		p.StartAt, p.DelayMS = nil, in.Milliseconds()
	case at != "":
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return step.Errorf(step.KindInvalid, "--at %.40q: must be a time such as 2006-01-02T15:04:05Z", at)
		}
		p.StartAt, p.DelayMS = &t, 0
	}
	return nil
}

// submitAndFollow submits, shows the run on stderr as it goes, and prints the
// results on stdout.
func (a *app) submitAndFollow(ctx context.Context, client *server, submission wire.SubmitRun) error {
	created, err := a.submit(ctx, client, submission)
	if err != nil {
		return err
	}
	err = a.show(ctx, client, created.ID, submission.Plan.Goal)
	if errors.Is(err, interrupt.ErrInterrupted) {
		return fmt.Errorf("%w; run %s goes on until nofx runs cancel ends it", err, created.ID)
	}
	return err
}

// submitAndOwn is submitAndFollow where the run has nobody but this command: an
// interrupt cancels it, and its end is waited for until the second.
func (a *app) submitAndOwn(ctx context.Context, client *server, submission wire.SubmitRun) error {
	watch, detach := context.WithCancelCause(context.WithoutCancel(ctx))
	defer detach(nil)
	created, err := a.submit(ctx, client, submission)
	if err != nil {
		return err
	}
	watched := make(chan struct{})
	defer close(watched)
	go a.cancelWhenInterrupted(ctx, watch, detach, client, created.ID, &outage{}, watched)
	err = a.show(watch, client, created.ID, submission.Plan.Goal)
	if errors.Is(err, interrupt.ErrInterrupted) {
		return fmt.Errorf("%w; run %s was not seen to end", err, created.ID)
	}
	return err
}

// show shows the run on stderr until it has ended, and its results on stdout.
func (a *app) show(ctx context.Context, client *server, runID, goal string) error {
	a.say("run %s: %s", runID, render.Clean(goal))
	view, end := a.view()
	detail, err := follow.Run(ctx, client, runID, view)
	end(detail)
	if errors.Is(err, interrupt.ErrInterrupted) {
		return err
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", runID, err)
	}
	if err := a.print(detail, func(w io.Writer) error {
		fmt.Fprintln(w)
		return render.Results(w, detail)
	}); err != nil {
		return err
	}
	return ended(detail.Run.Status)
}

// view is how stderr shows a run: redrawn in place on a terminal, else line
// by line.
func (a *app) view() (follow.View, func(wire.RunDetail)) {
	if f, ok := a.Stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) && a.Getenv("TERM") != "dumb" {
		live := render.NewLive(f, func() (int, int) {
			cols, rows, err := term.GetSize(int(f.Fd()))
			if err != nil || cols < 20 || rows < 5 {
				return 80, 24
			}
			return cols, rows
		})
		return live, live.Close
	}
	plain := render.NewPlain(a.Stderr)
	return plain, plain.Close
}

// newKey is an idempotency key: a submission that is repeated because its
// answer was lost makes no second run.
func newKey() string { return "nofx-" + rand.Text() }
