package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/follow"
	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (a *app) runsLogsCommand() *cobra.Command {
	var name string
	var following bool
	cmd := &cobra.Command{
		Use:   "logs RUN",
		Short: "print what a run's steps wrote",
		Long: "Prints what the steps of a run wrote. One step's output (--step, or a run of one step) comes as it\n" +
			"is, stdout to stdout and stderr to stderr; that of several steps comes as lines with the step's name.",
		Args: cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			detail, err := client.Run(ctx, args[0])
			if err != nil {
				return err
			}
			show, err := a.logView(detail, name)
			if err != nil {
				return err
			}
			if following {
				_, err := follow.Run(ctx, client, args[0], show)
				show.close(detail)
				return err
			}
			for _, s := range detail.Steps {
				if s.Attempt == 0 || !show.wants(s) {
					continue
				}
				if err := a.printOutput(ctx, client, detail.Run.ID, s, show); err != nil {
					return fmt.Errorf("step %s: %w", s.Name, err)
				}
			}
			show.close(detail)
			return nil
		}),
	}
	cmd.Flags().StringVar(&name, "step", "", "only this `step`")
	cmd.Flags().BoolVarP(&following, "follow", "f", false, "go on until the run has ended")
	return cmd
}

// printOutput shows what there is of a step's output now.
func (a *app) printOutput(ctx context.Context, client *server, runID string, s wire.StepDetail, show *logView) error {
	var offset int64
	for {
		page, err := client.Output(ctx, runID, s.ID, offset)
		if err != nil {
			return err
		}
		for _, c := range page.Chunks {
			show.chunk(s, c)
		}
		if page.Done || page.NextOffset <= offset {
			return nil
		}
		offset = page.NextOffset
	}
}

// logView shows output on stdout and nothing about states.
type logView struct {
	app    *app
	only   string // a step's name, "" = all
	raw    *rawView
	plain  *render.Plain
	offset map[string]int64 // for --json while following
}

func (a *app) logView(detail wire.RunDetail, only string) (*logView, error) {
	v := &logView{app: a, only: only, offset: map[string]int64{}}
	found := only == ""
	for _, s := range detail.Steps {
		found = found || s.Name == only
	}
	if !found {
		return nil, step.Errorf(step.KindNotFound, "run %s has no step %s", detail.Run.ID, only)
	}
	if only != "" || len(detail.Steps) == 1 {
		v.raw = &rawView{out: a.Stdout, err: a.Stderr, app: a}
	} else {
		v.plain = render.NewPlain(a.Stdout)
		v.plain.Widen(detail)
	}
	return v, nil
}

func (v *logView) wants(s wire.StepDetail) bool { return v.only == "" || v.only == s.Name }

func (v *logView) Steps(wire.RunDetail) {}

func (v *logView) Trouble(what string) {
	if what == "" {
		what = "the API is back"
	}
	v.app.say("%s", render.Clean(what))
}

func (v *logView) Output(s wire.StepDetail, attempt int, stream wire.Stream, data []byte) {
	key := fmt.Sprint(s.ID, "/", attempt)
	v.chunk(s, wire.OutputChunk{StepID: s.ID, StepName: s.Name, Attempt: attempt, Offset: v.offset[key], Stream: stream, Data: data})
	v.offset[key] += int64(len(data))
}

func (v *logView) chunk(s wire.StepDetail, c wire.OutputChunk) {
	switch {
	case !v.wants(s):
	case v.app.json:
		_ = line(v.app.Stdout, c) // as with any reader of a log: one that went away misses the rest
	case v.raw != nil:
		v.raw.Output(s, c.Attempt, c.Stream, c.Data)
	default:
		v.plain.Output(s, c.Attempt, c.Stream, c.Data)
	}
}

func (v *logView) close(d wire.RunDetail) {
	if v.plain != nil {
		v.plain.Close(d)
	}
}
