package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/doctor"
	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/cmd/nofx/internal/up"
	"github.com/nofx-run/nofx/sdk/step"
)

func (a *app) doctorCommand() *cobra.Command {
	var socket, runsc string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "look whether this host has what NOFX needs",
		Long: "Looks at the kernel, the control groups, devices and programs of this host, and says what each\n" +
			"thing that is missing is for and how to get it. It needs no server and changes nothing. It ends with 3\n" +
			"when something is missing that everything needs.",
		Args: cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			host, err := doctor.This(socket, runsc)
			if err != nil {
				return err
			}
			all := doctor.Examine(cmd.Context(), host)
			err = a.print(all, func(w io.Writer) error {
				rows := make([][]string, 0, len(all))
				for _, f := range all {
					what := f.For
					if f.Fix != "" {
						what += ": " + f.Fix
					}
					rows = append(rows, []string{f.Check, string(f.State), f.Seen, what})
				}
				return render.Table(w, []string{"CHECK", "STATE", "SEEN", "WITHOUT IT"}, rows)
			})
			if err == nil && !doctor.Healthy(all) {
				err = step.Errorf(step.KindUnavailable, "this host lacks what every sandbox needs; see the lines marked required")
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&socket, "docker", up.DefaultDocker, "`socket` of the container engine")
	cmd.Flags().StringVar(&runsc, "runsc", "", "`path` of gVisor's runsc (default beside nofx, or where hosts have it)")
	return cmd
}
