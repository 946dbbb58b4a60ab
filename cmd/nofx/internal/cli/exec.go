package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/follow"
	"github.com/nofx-run/nofx/cmd/nofx/internal/interrupt"
	"github.com/nofx-run/nofx/cmd/nofx/internal/onestep"
	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (a *app) execCommand() *cobra.Command {
	var o onestep.Options
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND...",
		Short: "run one command in a sandbox",
		Long: "Runs one command as a step of its own, streams its output, and exits with its exit code.\n" +
			"124: it ran out of time. 125: it ended in any other way than by its own exit, or NOFX could\n" +
			"not run it; the cause is on stderr. With --json the whole verdict is the last line on stderr.\n" +
			"The first Ctrl-C cancels the step, the second leaves it alone and goes away.\n" +
			"The step's standard input is empty without -i, which reads all of yours first, at most 1 MiB of\n" +
			"text; --file brings other data in.",
		Args: cobra.ArbitraryArgs,
		RunE: run(func(cmd *cobra.Command, args []string) error {
			if err := noneEmpty(cmd, "driver", "image", "isolation", "profile", "cpu", "memory", "pids", "disk", "io", "output"); err != nil {
				return err
			}
			o.Command = args
			if o.Input && o.Tool == "exec" {
				var err error
				if o.Stdin, err = a.readStdin(cmd.Context()); err != nil {
					return err
				}
			}
			plan, err := onestep.Plan(o)
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("timeout") {
				plan.Steps[0].TimeoutMS = 0 // nobody asks for more than a policy allows
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			return a.exec(cmd.Context(), client, plan)
		}),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.Input, "stdin", "i", false, "give the standard input to the command")
	f.StringVar(&o.Driver, "driver", "local", "the `driver` to run on")
	f.StringSliceVar(&o.Regions, "region", nil, "the `region` to run in; more than one, with commas: an order to try")
	f.StringVar(&o.Image, "image", "", "the `name` of an image, for drivers that have images")
	f.StringVar(&o.Isolation, "isolation", "", "the isolation `level` that it demands: namespace or gvisor (default the driver's own)")
	f.StringVar(&o.Tool, "tool", "exec", "bash, exec, python or node")
	f.StringVar(&o.Profile, "profile", "", "a named `size`, such as small, medium, large or heavy, for what the other flags leave open")
	f.StringVar(&o.CPU, "cpu", "", "`cores`, like 0.5")
	f.StringVar(&o.Memory, "memory", "", "memory `size`, like 256Mi")
	f.StringVar(&o.Pids, "pids", "", "`number` of processes and threads")
	f.StringVar(&o.Disk, "disk", "", "`size` of the workspace, like 1Gi")
	f.StringVar(&o.IO, "io", "", "`size` a second that it may read from disks, and write, like 10Mi")
	f.StringVar(&o.Output, "output", "", "output `size`, like 1Mi; more is dropped and marked")
	f.DurationVar(&o.Timeout, "timeout", 30*time.Second, "wall time")
	f.Lookup("timeout").DefValue = "that of the tool, 30s as shipped"
	f.StringVar(&o.Network, "network", string(step.NetworkNone), "none, allow (whom --allow names) or open (the Internet)")
	f.StringArrayVar(&o.Allow, "allow", nil, "whom it may call: `HOST[:PORTS]`, or a preset such as registries; may be repeated")
	f.StringArrayVar(&o.Env, "env", nil, "`K=V`, for its environment")
	f.StringArrayVar(&o.Files, "file", nil, "`local:remote`, a file to put into the workspace")
	f.StringArrayVar(&o.Artifacts, "artifact", nil, "`path` of a file or folder in the workspace to keep and to download here")
	return cmd
}

// readStdin reads the standard input to its end, one byte more than is allowed
// at most, unless ctx ends before.
func (a *app) readStdin(ctx context.Context) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(a.Stdin, onestep.MaxStdin+1))
		read <- result{data, err}
	}()
	select {
	case r := <-read:
		if r.err != nil {
			return nil, fmt.Errorf("standard input: %w", r.err)
		}
		return r.data, nil
	case <-ctx.Done(): // the read ends with the process
		return nil, context.Cause(ctx)
	}
}

// noneEmpty refuses a flag with nothing in it, as an unset variable in a
// script leaves it: a cap that was asked for must not be left out in silence.
func noneEmpty(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if f := cmd.Flags().Lookup(name); f.Changed && f.Value.String() == "" {
			return step.Errorf(step.KindInvalid, "--%s is empty: give it a value or leave it out", name)
		}
	}
	return nil
}

// verdict is what --json prints about an exec: the step's verdict with where
// it came from.
type verdict struct {
	step.Verdict
	RunID     string              `json:"run_id"`
	StepID    string              `json:"step_id"`
	Status    step.Status         `json:"status"`
	Artifacts []wire.ArtifactInfo `json:"artifacts"`
}

func (a *app) exec(ctx context.Context, client *server, plan wire.Plan) error {
	interrupt.IgnoreBrokenPipes()
	// An interrupt cancels the run instead of what watches it.
	watch, detach := context.WithCancelCause(context.WithoutCancel(ctx))
	defer detach(nil)
	created, err := a.submit(ctx, client, wire.SubmitRun{Plan: plan})
	if err != nil {
		return err
	}
	watched := make(chan struct{})
	go a.tellUnserved(watch, client, created.ID, watched)
	view := &rawView{out: a.Stdout, err: a.Stderr, app: a}
	go a.cancelWhenInterrupted(ctx, watch, detach, client, created.ID, &view.away, watched)

	detail, err := follow.Run(watch, client, created.ID, view)
	close(watched)
	if errors.Is(err, interrupt.ErrInterrupted) {
		a.say("left alone: see nofx runs get %s", created.ID)
		return code(execOther)
	}
	if errors.Is(err, errAway) {
		a.say("the API is away: nobody can say whether run %s was cancelled; see nofx runs get %s", created.ID, created.ID)
		return code(execOther)
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", created.ID, err)
	}
	if len(detail.Steps) != 1 {
		return fmt.Errorf("run %s has %d steps, not one", created.ID, len(detail.Steps))
	}
	asked := plan.Steps[0].Artifacts
	if len(asked) > 0 {
		view.endLine()
	}
	saving, stop := a.untilNextInterrupt(ctx)
	defer stop()
	saved := a.saveAll(saving, client, asked, detail.Artifacts)
	for _, err := range saved {
		a.explain(err)
	}
	a.tellMissing(saving, client, detail, asked)
	unwritten := a.unwritten()
	// The verdict last, as its reader expects.
	if err := a.conclude(detail, view.endLine); err != nil || len(saved) == 0 && !unwritten {
		return err
	}
	return code(execOther)
}

// unserved is how long a step may wait before it is worth a word.
const unserved = 3 * time.Second

// tellUnserved says what the run's step waits for when it does not begin.
func (a *app) tellUnserved(ctx context.Context, client *server, runID string, done <-chan struct{}) {
	timer := time.NewTimer(unserved)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
	}
	detail, err := client.Run(ctx, runID)
	if err != nil || len(detail.Steps) != 1 {
		return // whatever is wrong is told by what follows the run
	}
	if what := detail.Steps[0].WaitingFor; what != "" {
		a.say("the step waits for %s", render.Clean(what))
	}
}

// conclude says how the step ended, where that is not plain from its exit
// code, and makes the command's own exit code of it.
// endLine ends a line of the step's that the word about it would run into.
func (a *app) conclude(detail wire.RunDetail, endLine func()) error {
	s := detail.Steps[0]
	v := verdict{RunID: detail.Run.ID, StepID: s.ID, Status: s.Status, Artifacts: detail.Artifacts}
	if s.Verdict != nil {
		v.Verdict = *s.Verdict
	}
	own := s.Verdict != nil && v.Cause == step.CauseExit && v.ExitCode != nil
	switch {
	case a.json:
		endLine()
		if err := line(a.Stderr, v); err != nil {
			return err
		}
	case s.Verdict == nil:
		endLine()
		a.say("the step ended %s without a verdict", s.Status)
	case !own || v.Output.Truncated:
		endLine()
		a.say("%s", summary(v.Verdict))
	}
	switch {
	case own:
		return exitWith(*v.ExitCode)
	case s.Verdict != nil && v.Cause == step.CauseTimeout:
		return code(execTimeout)
	}
	return code(execOther)
}

func exitWith(c int) error {
	if c == 0 {
		return nil
	}
	return code(c)
}

// summary is a verdict and its measured peaks in one line.
func summary(v step.Verdict) string {
	text := "ended by " + v.String()
	if v.Message != "" {
		text += ": " + render.Clean(v.Message)
	}
	u := v.Usage
	text += fmt.Sprintf(" (wall %s, cpu %s, memory peak %s, pids peak %d",
		render.Duration(time.Duration(u.WallMS)*time.Millisecond),
		render.Duration(time.Duration(u.CPUUsec)*time.Microsecond), render.Bytes(u.MemoryPeakBytes), u.PidsPeak)
	if v.Output.Truncated {
		text += fmt.Sprintf(", output kept %s of %s", render.Bytes(v.Output.StoredBytes), render.Bytes(v.Output.TotalBytes))
	}
	return text + ")"
}

// rawView hands a step's bytes on as they are.
type rawView struct {
	out, err io.Writer
	app      *app
	attempt  int
	inLine   bool // the step's stderr stopped in the middle of one
	away     outage
}

// endLine makes what is said next a line of its own.
func (v *rawView) endLine() {
	if v.inLine {
		_, _ = io.WriteString(v.err, "\n")
	}
	v.inLine = false
}

func (v *rawView) Steps(wire.RunDetail) {}

func (v *rawView) Output(_ wire.StepDetail, attempt int, stream wire.Stream, data []byte) {
	if v.attempt != 0 && v.attempt != attempt {
		v.endLine()
		v.app.say("attempt %d", attempt)
	}
	v.attempt = attempt
	w := v.out
	if stream == wire.Stderr && len(data) > 0 {
		w, v.inLine = v.err, data[len(data)-1] != '\n'
	}
	_, _ = w.Write(data) // a reader that went away must not end the step
}

func (v *rawView) Trouble(what string) {
	v.away.set(what != "")
	if what == "" {
		what = "the API is back"
	}
	v.app.say("%s", render.Clean(what))
}
