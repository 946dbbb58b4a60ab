// Command nofxd is the host daemon.
//
//	nofxd --config FILE         works until SIGTERM, then drains; SIGHUP has it read
//	                            the drivers section and look for new plugins again;
//	                            SIGINT says that the host goes away with it: what
//	                            outlasts the drain, which one more signal ends, is
//	                            ended and told of as lost
//	nofxd purge --config FILE   removes all that the installation has on this host;
//	                            --without-ledger, even where the ledger cannot be read
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/nofx-run/nofx/daemon"
	"github.com/nofx-run/nofx/internal/buildinfo"
	"github.com/nofx-run/nofx/internal/failpoint"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	purge := len(args) > 0 && args[0] == "purge"
	if purge {
		args = args[1:]
	}
	flags := flag.NewFlagSet("nofxd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	config := flags.String("config", "/etc/nofx/nofxd.yaml", "configuration `file`")
	version := flags.Bool("version", false, "print the version")
	var withoutLedger *bool
	if purge {
		withoutLedger = flags.Bool("without-ledger", false, "purge even where the ledger cannot be read: what is in the control groups, and workspaces")
	}
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "nofxd: %q is not expected; the only command is purge\n", flags.Arg(0))
		return 2
	}
	if *version {
		fmt.Fprintln(stdout, buildinfo.Version())
		return 0
	}
	cfg, err := daemon.ReadConfig(*config)
	if err != nil {
		fmt.Fprintln(stderr, "nofxd:", err)
		return 2
	}
	cfg.Points = failpoint.FromEnv()
	syscall.Umask(0o077)
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	if purge {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		err = daemon.Purge(ctx, cfg, log, *withoutLedger)
	} else {
		err = serve(*config, cfg, log)
	}
	if err != nil {
		fmt.Fprintln(stderr, "nofxd:", err)
		return 1
	}
	return 0
}

// serve runs the daemon until a signal ends it. A hangup has it read its
// configuration again.
func serve(path string, cfg daemon.Config, log *slog.Logger) error {
	hangup, end := make(chan os.Signal, 1), make(chan os.Signal, 4)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(end)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d, err := daemon.New(cfg, log)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-hangup:
				if err := reload(ctx, d, path); err != nil {
					log.Error("the new configuration is not taken, or not all of it", "err", err)
				}
			case <-ended:
				return
			}
		}
	}()
	go func() {
		var leaving, hurry bool
		for {
			select {
			case sig := <-end:
				again := ctx.Err() != nil
				if sig == syscall.SIGINT && !leaving {
					leaving = true
					d.Leave()
				}
				if again && leaving && !hurry {
					hurry = true
					d.Hurry()
				}
				cancel()
			case <-ended:
				return
			}
		}
	}()
	return d.Run(ctx)
}

func reload(ctx context.Context, d *daemon.Daemon, path string) error {
	cfg, err := daemon.ReadConfig(path)
	if err != nil {
		return err
	}
	return d.Reload(ctx, cfg)
}
