package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// maxInputs is more than the API takes, and bounds what is read.
const maxInputs = 4 << 20

// many is how commands choose entries: by id, or all that match.
type many struct {
	deadFlags
	all    bool
	cursor string
	dryRun bool
}

// add defines the flags; driver is the name of that for steps' drivers.
func (m *many) add(cmd *cobra.Command, driver string) {
	m.addBut(cmd.Flags(), driver)
	cmd.Flags().BoolVar(&m.all, "all-matching", false, "all open entries that --tool, --cause, --"+driver+" and --since choose, or just all")
	cmd.Flags().StringVar(&m.cursor, "cursor", "", "go on from here, with --all-matching")
	cmd.Flags().BoolVar(&m.dryRun, "dry-run", false, "tell what would happen, and do nothing")
}

// choice checks what was asked for.
func (m *many) choice(ids []string) (wire.ResolveMany, error) {
	filter, err := m.filter()
	if err != nil {
		return wire.ResolveMany{}, err
	}
	filtered := m.tool+m.cause+m.driver+m.since+m.cursor != ""
	switch {
	case m.all && len(ids) > 0:
		return wire.ResolveMany{}, step.Errorf(step.KindInvalid, "--all-matching and ids: give one of them")
	case !m.all && len(ids) == 0:
		return wire.ResolveMany{}, step.Errorf(step.KindInvalid, "which entries? give their ids, or --all-matching")
	case filtered && !m.all:
		return wire.ResolveMany{}, step.Errorf(step.KindInvalid, "flags that choose entries go with --all-matching")
	case len(ids) > wire.MaxResolve:
		return wire.ResolveMany{}, step.Errorf(step.KindInvalid, "%d ids: at most %d", len(ids), wire.MaxResolve)
	}
	out := wire.ResolveMany{IDs: ids, Cursor: m.cursor, DryRun: m.dryRun}
	if m.all {
		out.Match = &filter
	}
	return out, nil
}

func (a *app) dlqRequeueCommand() *cobra.Command {
	var m many
	var file, driver string
	cmd := &cobra.Command{
		Use:   "requeue [ID...]",
		Short: "try the steps of entries again, in a new generation",
		RunE: run(func(cmd *cobra.Command, args []string) error {
			in, err := m.choice(args)
			if err != nil {
				return err
			}
			in.Driver = driver
			inputs, err := a.inputs(file)
			if err != nil {
				return err
			}
			if inputs != nil && (len(args) != 1 || m.dryRun) {
				return step.Errorf(step.KindInvalid, "--edit-inputs goes with the id of one entry and without --dry-run")
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			if len(args) == 1 && !m.dryRun {
				done, err := client.RequeueDead(cmd.Context(), args[0], wire.RequeueDead{Inputs: inputs, Driver: driver}, newKey())
				if err != nil {
					return err
				}
				return a.print(done, func(w io.Writer) error { return reopened(w, done) })
			}
			return a.each(in, "requeued", func(in wire.ResolveMany) (wire.Resolved, error) {
				return client.RequeueMany(cmd.Context(), in, newKey())
			})
		}),
	}
	m.add(cmd, "from-driver")
	cmd.Flags().StringVar(&driver, "driver", "", "on this `driver` from now on; --from-driver chooses by the one so far")
	cmd.Flags().StringVar(&file, "edit-inputs", "", "with these inputs from now on: a JSON `file`, - for stdin")
	return cmd
}

// inputs reads a step's inputs; nil without a file.
func (a *app) inputs(file string) (json.RawMessage, error) {
	if file == "" {
		return nil, nil
	}
	from := a.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	raw, err := io.ReadAll(io.LimitReader(from, maxInputs+1))
	if err != nil {
		return nil, fmt.Errorf("--edit-inputs %s: %w", file, err)
	}
	var object map[string]json.RawMessage
	if len(raw) > maxInputs || json.Unmarshal(raw, &object) != nil || object == nil {
		return nil, step.Errorf(step.KindInvalid, "--edit-inputs %s: not a JSON object of at most %d bytes", file, maxInputs)
	}
	return raw, nil
}

func (a *app) dlqDiscardCommand() *cobra.Command {
	var m many
	cmd := &cobra.Command{
		Use:   "discard [ID...]",
		Short: "leave entries as they are, for good; they stay as history",
		RunE: run(func(cmd *cobra.Command, args []string) error {
			in, err := m.choice(args)
			if err != nil {
				return err
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			if len(args) == 1 && !m.dryRun {
				done, err := client.DiscardDead(cmd.Context(), args[0], newKey())
				if err != nil {
					return err
				}
				return a.resolved(done, "discarded")
			}
			return a.each(in, "discarded", func(in wire.ResolveMany) (wire.Resolved, error) {
				return client.DiscardMany(cmd.Context(), in, newKey())
			})
		}),
	}
	m.add(cmd, "driver")
	return cmd
}

// each does it with all entries that are meant, of which the API takes so many at
// a time. When it cannot go on, it tells what was done, and from where on not.
func (a *app) each(in wire.ResolveMany, what string, do func(wire.ResolveMany) (wire.Resolved, error)) error {
	all := wire.Resolved{DryRun: in.DryRun, Done: []string{}, Refused: []wire.RefusedOne{}}
	for first := true; ; first = false {
		part, err := do(in)
		if err != nil {
			if !first {
				all.More, all.NextCursor = true, in.Cursor
				err = errors.Join(a.resolved(all, what), err)
			}
			return err
		}
		all.Done, all.Refused = append(all.Done, part.Done...), append(all.Refused, part.Refused...)
		if !part.More || part.NextCursor == in.Cursor {
			return a.resolved(all, what)
		}
		in.Cursor = part.NextCursor
	}
}

// resolved tells what became of entries. It fails when one was refused.
func (a *app) resolved(done wire.Resolved, what string) error {
	if done.DryRun {
		what = "would be " + what
	}
	err := a.print(done, func(w io.Writer) error {
		for _, id := range done.Done {
			fmt.Fprintf(w, "%s  %s\n", render.Clean(id), what)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range done.Refused {
		a.say("%s: %s", render.Clean(r.ID), render.Clean(r.Message))
	}
	if done.More {
		a.say("more: the same with --cursor %s", render.Clean(done.NextCursor))
	}
	if len(done.Refused) > 0 {
		return code(exitSystem)
	}
	return nil
}

// reopened tells which steps have a new generation.
func reopened(w io.Writer, r wire.Reopened) error {
	rows := make([][]string, 0, len(r.Steps))
	for _, s := range r.Steps {
		rows = append(rows, []string{s.Name, string(s.Status), fmt.Sprint(s.Generation)})
	}
	if err := render.Table(w, []string{"STEP", "STATUS", "GENERATION"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nrun %s %s\n", render.Clean(r.RunID), r.Status)
	return err
}

func (a *app) runsRetryCommand() *cobra.Command {
	var name string
	var all bool
	cmd := &cobra.Command{
		Use:   "retry RUN",
		Short: "try the steps of a run again that did not succeed",
		Args:  cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			if all && name != "" {
				return step.Errorf(step.KindInvalid, "--all and --step: give one of them")
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			var done wire.Reopened
			if name == "" {
				done, err = client.RetryRun(cmd.Context(), args[0], wire.RetryRun{All: all}, newKey())
			} else {
				var detail wire.RunDetail
				if detail, err = client.Run(cmd.Context(), args[0]); err != nil {
					return err
				}
				id := ""
				for _, s := range detail.Steps {
					if s.Name == name || s.ID == name {
						id = s.ID
					}
				}
				if id == "" {
					return step.Errorf(step.KindNotFound, "run %s has no step %s", args[0], name)
				}
				done, err = client.RetryStep(cmd.Context(), args[0], id, newKey())
			}
			if err != nil {
				return err
			}
			for _, r := range done.Refused {
				a.say("%s: %s", render.Clean(r.ID), render.Clean(r.Message))
			}
			return a.print(done, func(w io.Writer) error { return reopened(w, done) })
		}),
	}
	cmd.Flags().StringVar(&name, "step", "", "only this `step`, and what was cancelled because of it")
	cmd.Flags().BoolVar(&all, "all", false, "every step, also those that succeeded")
	return cmd
}
