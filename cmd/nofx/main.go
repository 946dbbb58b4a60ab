// Command nofx is the command line of NOFX.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/nofx-run/nofx/cmd/nofx/internal/cli"
	"github.com/nofx-run/nofx/cmd/nofx/internal/interrupt"
	"github.com/nofx-run/nofx/cmd/nofx/internal/pglocal"
)

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) > 1 && os.Args[1] == pglocal.EnterCommand {
		fmt.Fprintln(os.Stderr, "nofx:", pglocal.Enter(os.Args[2:]))
		return 3
	}
	ctx, again, stop := interrupt.Watch(context.Background())
	defer stop()
	return cli.Main(ctx, cli.Env{
		Args:   os.Args[1:],
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
		Getenv: os.Getenv,
		Again:  again,
	})
}
