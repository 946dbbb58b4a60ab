package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (a *app) usageCommand() *cobra.Command {
	var since, until string
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "add up what the tenant's steps used, by tool and driver",
		Long:  "Adds up what the attempts used that ended in a span of time, this month's (UTC) by default.",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			from, err := moment("--since", since)
			if err != nil {
				return err
			}
			to, err := moment("--until", until)
			if err != nil {
				return err
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			report, err := client.Usage(cmd.Context(), from, to)
			if err != nil {
				return err
			}
			return a.print(report, func(w io.Writer) error {
				rows := make([][]string, 0, len(report.Rows)+1)
				for _, r := range report.Rows {
					rows = append(rows, usageRow(r.Tool, r.Driver, r.UsageSum))
				}
				rows = append(rows, usageRow("total", "", report.Total))
				if err := render.Table(w, []string{"TOOL", "DRIVER", "ATTEMPTS", "WALL", "CPU", "PEAK", "READ", "WRITTEN", "RECEIVED", "SENT", "OUTPUT"}, rows); err != nil {
					return err
				}
				_, err := fmt.Fprintln(w, charged(report.Month))
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&since, "since", "", "from then on: a `time` like 2026-11-01T00:00:00Z, a day like 2026-11-01, or a span back like 24h")
	cmd.Flags().StringVar(&until, "until", "", "before that `time`; now by default")
	return cmd
}

// charged is the month's line below the table.
func charged(m wire.MonthUsage) string {
	most := "no quota"
	if m.MaxComputeMinutes != nil {
		most = fmt.Sprintf("of %.2f", *m.MaxComputeMinutes)
	}
	return fmt.Sprintf("charged in %s: %.2f compute minutes (wall time × cores), %s", m.Month, m.ComputeMinutes, most)
}

func usageRow(tool, driver string, u wire.UsageSum) []string {
	row := []string{tool, driver, strconv.FormatInt(u.Attempts, 10), render.Duration(time.Duration(u.WallMS) * time.Millisecond), render.Duration(time.Duration(u.CPUUsec) * time.Microsecond)}
	for _, n := range []int64{u.MemoryPeakBytes, u.IOReadBytes, u.IOWriteBytes, u.NetRxBytes, u.NetTxBytes, u.OutputBytes} {
		row = append(row, render.Bytes(n))
	}
	return row
}

// moment reads a point in time, or a span back from now.
func moment(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return time.Now().Add(-d), nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, step.Errorf(step.KindInvalid, "%s %.60s: a time like %s, a day like %s, or a span back like 24h", flag, text,
		"2026-11-01T00:00:00Z", "2026-11-01")
}
