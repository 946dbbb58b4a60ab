package cli

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (a *app) sweepCommand() *cobra.Command {
	var data string
	var dry bool
	cmd := &cobra.Command{
		Use:   "sweep",
		Short: "remove what nobody has any more on this worker host, now",
		Long: "Has the daemon of this host compare its ledger with sandboxes, control groups and workspaces, and remove\n" +
			"what no attempt and no run of its has; it does so by itself now and then. As root. A daemon that gives no\n" +
			"sign of life for 10 s is not waited for.",
		Args: cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			daemon := &hostDaemon{socket: filepath.Join(data, "nofxd.sock"), patience: signOfLife, every: askForLife}
			report, err := daemon.sweep(cmd.Context(), dry)
			if err != nil {
				return err
			}
			err = a.print(report, func(w io.Writer) error { return printSweep(w, report) })
			if err == nil && len(report.Errors) > 0 {
				err = step.Errorf(step.KindUnavailable, "it could not look everywhere: %s", report.Errors[0])
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&data, "data", "/var/lib/nofx", "the daemon's data `folder`; of nofx up, its data folder and /worker")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only tell what would go, and why")
	return cmd
}

func printSweep(w io.Writer, report wire.SweepReport) error {
	if len(report.Items) == 0 {
		_, err := fmt.Fprintln(w, "nothing to remove")
		return err
	}
	rows := make([][]string, 0, len(report.Items))
	for _, i := range report.Items {
		outcome := "removed"
		switch {
		case report.DryRun:
			outcome = "would go"
		case !i.Removed:
			outcome = "failed: " + i.Error
		}
		rows = append(rows, []string{i.Kind, i.Name, i.Driver, i.Reason, outcome})
	}
	return render.Table(w, []string{"KIND", "NAME", "DRIVER", "REASON", "OUTCOME"}, rows)
}
