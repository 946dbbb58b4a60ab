package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (a *app) handlersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "handlers",
		Short: "list the tools that steps can name, with their circuit breakers",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			list, err := client.Handlers(cmd.Context())
			if err != nil {
				return err
			}
			slices.SortFunc(list.Handlers, func(x, y wire.HandlerInfo) int { return strings.Compare(x.Tool, y.Tool) })
			return a.print(list, func(w io.Writer) error { return printHandlers(w, list.Handlers) })
		}),
	}
	cmd.AddCommand(
		a.setBreakersCommand(wire.BreakerReset, "make a handler's circuit breakers as good as new"),
		a.setBreakersCommand(wire.BreakerForceOpen, "open a handler's circuit breakers until they are reset"),
		a.setBreakersCommand(wire.BreakerForceClose, "close a handler's circuit breakers until they are reset"),
		a.breakerEventsCommand(),
	)
	return cmd
}

func printHandlers(w io.Writer, handlers []wire.HandlerInfo) error {
	rows := make([][]string, 0, len(handlers))
	var notes []string
	for _, h := range handlers {
		states := make([]string, 0, len(h.Breakers))
		for _, b := range h.Breakers {
			states = append(states, b.Driver+":"+b.State)
			if b.State != "closed" || b.Forced {
				notes = append(notes, breakerNote(h.Tool, b))
			}
		}
		rows = append(rows, []string{
			h.Tool, h.DefaultDriver, render.Duration(time.Duration(h.TimeoutMS) * time.Millisecond),
			strconv.FormatFloat(h.Resources.CPU, 'g', -1, 64), render.Bytes(h.Resources.MemoryMB << 20),
			strconv.FormatInt(h.Resources.Pids, 10), strings.Join(states, ","), h.Description,
		})
	}
	if err := render.Table(w, []string{"TOOL", "DRIVER", "TIMEOUT", "CPU", "MEMORY", "PIDS", "BREAKERS", "DESCRIPTION"}, rows); err != nil {
		return err
	}
	for _, note := range notes {
		if _, err := fmt.Fprintln(w, render.Clean(note)); err != nil {
			return err
		}
	}
	return nil
}

// breakerNote says in a line why a breaker is not simply closed.
func breakerNote(tool string, b wire.BreakerInfo) string {
	note := fmt.Sprintf("%s on %s: %s", tool, b.Driver, strings.ReplaceAll(b.State, "_", " "))
	switch {
	case b.Forced:
		note += " until it is reset"
	case b.State == "open" && b.ReadyAt != nil:
		note += " until " + b.ReadyAt.Format(time.RFC3339)
	}
	return note + ": " + b.Reason
}

func (a *app) setBreakersCommand(action wire.BreakerAction, short string) *cobra.Command {
	in := wire.SetBreaker{Action: action}
	cmd := &cobra.Command{
		Use:   string(action) + " TOOL",
		Short: short,
		Long:  short + "\n\nIt takes an operator's key. TOOL is a handler as `nofx handlers` lists it.",
		Args:  cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			in.Tool = args[0]
			set, err := client.SetBreakers(cmd.Context(), in)
			if err != nil {
				return err
			}
			return a.print(set, func(w io.Writer) error {
				if len(set.Drivers) == 0 {
					_, err := fmt.Fprintf(w, "%s: nothing has happened to its breakers\n", render.Clean(set.Tool))
					return err
				}
				_, err := fmt.Fprintf(w, "%s on %s: %s\n", render.Clean(set.Tool), render.Clean(strings.Join(set.Drivers, ", ")), set.State)
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&in.Driver, "driver", "", "only on this driver")
	cmd.Flags().StringVar(&in.Tenant, "tenant", "", "whose breaker, where each tenant has one")
	cmd.Flags().StringVar(&in.Reason, "reason", "", "why, for the events and the audit log")
	return cmd
}

func (a *app) breakerEventsCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "events",
		Short: "list what became of circuit breakers, the newest first",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			list, err := client.BreakerEvents(cmd.Context(), limit)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error {
				rows := make([][]string, 0, len(list.Events))
				for _, e := range list.Events {
					rows = append(rows, []string{e.CreatedAt.Format(time.RFC3339), string(e.Type), e.Tool, e.Driver, e.Reason})
				}
				return render.Table(w, []string{"TIME", "EVENT", "TOOL", "DRIVER", "REASON"}, rows)
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "how many at most, 1 to 1000")
	return cmd
}
