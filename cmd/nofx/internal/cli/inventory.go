package cli

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/internal/buildinfo"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (a *app) workersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workers",
		Short: "list the worker hosts",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			list, err := client.Workers(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error {
				rows := make([][]string, 0, len(list.Workers))
				for _, k := range list.Workers {
					rows = append(rows, []string{
						k.Name, k.Status, k.Region, fmt.Sprintf("%d/%d", k.Held, k.Slots),
						driverNames(k), k.Version, render.Duration(time.Since(k.LastSeen)) + " ago",
					})
				}
				return render.Table(w, []string{"NAME", "STATUS", "REGION", "HELD", "DRIVERS", "VERSION", "SEEN"}, rows)
			})
		}),
	}
	cmd.AddCommand(a.workerEventsCommand())
	return cmd
}

func (a *app) workerEventsCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "events",
		Short: "list what became of worker hosts and their drivers, the newest first",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			list, err := client.WorkerEvents(cmd.Context(), limit)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error {
				rows := make([][]string, 0, len(list.Events))
				for _, e := range list.Events {
					rows = append(rows, []string{e.CreatedAt.Format(time.RFC3339), string(e.Type), e.Worker, e.Driver, e.Message})
				}
				return render.Table(w, []string{"TIME", "EVENT", "WORKER", "DRIVER", "MESSAGE"}, rows)
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "how many at most, 1 to 1000")
	return cmd
}

// driverNames are a worker's drivers, with the region of those that are
// elsewhere.
func driverNames(k wire.WorkerInfo) string {
	var names []string
	for _, d := range k.Drivers {
		name := d.Name
		if d.Region != "" && d.Region != k.Region {
			name += "@" + d.Region
		}
		if !d.Healthy {
			name += "(!)"
		}
		names = append(names, name)
	}
	return strings.Join(names, ",")
}

// driverRow is one driver on one worker, as `nofx drivers --json` prints it.
type driverRow struct {
	Worker string `json:"worker"`
	wire.DriverInfo
}

func (a *app) driversCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drivers",
		Short: "list the drivers of all workers that are not lost; sign and verify plugins",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			list, err := client.Workers(cmd.Context())
			if err != nil {
				return err
			}
			drivers := []driverRow{}
			for _, k := range list.Workers {
				if k.Status == "lost" {
					continue
				}
				for _, d := range k.Drivers {
					d.Region = cmp.Or(d.Region, k.Region)
					drivers = append(drivers, driverRow{Worker: k.Name, DriverInfo: d})
				}
			}
			return a.print(map[string]any{"drivers": drivers}, func(w io.Writer) error {
				rows := make([][]string, 0, len(drivers))
				for _, d := range drivers {
					rows = append(rows, []string{d.Name, d.Worker, d.Region, d.Version, yesNo(d.Healthy), strings.Join(d.Capabilities, ","), d.Message})
				}
				return render.Table(w, []string{"NAME", "WORKER", "REGION", "VERSION", "HEALTHY", "CAPABILITIES", "MESSAGE"}, rows)
			})
		}),
	}
	cmd.AddCommand(a.keygenCommand(), a.signCommand(), a.verifyCommand())
	return cmd
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  cobra.NoArgs,
		RunE: run(func(*cobra.Command, []string) error {
			v := map[string]string{"version": buildinfo.Version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			return a.print(v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "nofx %s (%s, %s)\n", v["version"], v["go"], v["platform"])
				return err
			})
		}),
	}
}
