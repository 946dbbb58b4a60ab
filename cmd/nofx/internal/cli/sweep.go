package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	sweepTime = 5 * time.Minute
	maxSweep  = 64 << 20 // bytes of a report
)

func (a *app) sweepCommand() *cobra.Command {
	var data string
	var dry bool
	cmd := &cobra.Command{
		Use:   "sweep",
		Short: "remove what nobody has any more on this worker host, now",
		Long: "Has the daemon of this host compare its ledger with sandboxes, control groups and workspaces, and remove\n" +
			"what no attempt and no run of its has; it does so by itself now and then. As root.",
		Args: cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			report, err := sweep(cmd.Context(), filepath.Join(data, "nofxd.sock"), dry)
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

// sweep asks the daemon behind a socket.
func sweep(ctx context.Context, socket string, dry bool) (report wire.SweepReport, _ error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	method := http.MethodPost
	if dry {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://nofxd/sweep", nil)
	if err != nil {
		return report, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return report, step.Errorf(step.KindUnavailable, "no daemon answers at %s: is it running, are you root, is --data its data_dir? (%w)", socket, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxSweep)).Decode(&report); err != nil {
		return report, fmt.Errorf("the daemon's report: %w", err)
	}
	return report, nil
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
