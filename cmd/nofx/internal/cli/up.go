package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/interrupt"
	"github.com/nofx-run/nofx/cmd/nofx/internal/planfile"
	"github.com/nofx-run/nofx/cmd/nofx/internal/rootfs"
	"github.com/nofx-run/nofx/cmd/nofx/internal/up"
)

func (a *app) upCommand() *cobra.Command {
	var dir, listen, once, docker, image, root, runsc, gvisorRuntime string
	var resolvers, plugins []string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "run the whole system on this machine",
		Long: "Runs a private Postgres, the control API, the daemon and the driver plugins on this machine,\n" +
			"keeps everything below the data folder, and supervises it. Ctrl-C drains; a second one hurries.\n" +
			"With --once it runs one plan, shows it, prints the results and ends with the run's exit code; the\n" +
			"first Ctrl-C cancels the run.",
		Args: cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			rootFolder, err := findRootfs(dir, root)
			if err != nil {
				return err
			}
			cfg := up.Config{
				Dir: dir, Listen: listen, Docker: docker, Image: image, RootFS: rootFolder, Runsc: runsc, GVisorRuntime: gvisorRuntime, Resolvers: resolvers, Plugins: plugins, Progress: a.Stderr, Hurry: a.Again,
			}
			work := a.serve(dir)
			if once != "" {
				submission, err := planfile.Read(once, a.Stdin)
				if err != nil {
					return err
				}
				work = func(ctx context.Context, e up.Endpoint) error {
					client, err := dial(e)
					if err != nil {
						return err
					}
					return a.submitAndOwn(ctx, client, submission)
				}
			}
			return a.up(cmd.Context(), cfg, work)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&dir, "data", ".nofx", "the data `folder`")
	f.StringVar(&listen, "listen", "127.0.0.1:7443", "`address` of the API; port 0 picks one")
	f.StringVar(&docker, "docker", "", "`socket` of a Docker Engine for the driver container (default "+up.DefaultDocker+" where it is there; "+up.NoDocker+": none)")
	f.StringVar(&image, "image", "", "`image` of a step on the driver container that names none")
	f.StringVar(&runsc, "runsc", "", "`path` of gVisor's runsc, for steps on the driver local that demand isolation gvisor (make runsc builds one)")
	f.StringVar(&gvisorRuntime, "gvisor-runtime", "", "`name` of the engine's runtime that is runsc, for steps on the driver container that demand it")
	f.StringVar(&root, "rootfs", "", "`NAME` of a root file system (see nofx rootfs) of its own or in "+systemData+", or the path of a folder with one, for the driver local (default: the host's own /usr)")
	f.StringArrayVar(&resolvers, "resolver", nil, "name server, `ADDRESS:PORT`, for steps with a network (default: those of the host); may be repeated")
	f.StringArrayVar(&plugins, "driver", nil, "`path` of a driver plugin of your own, nofx-driver-NAME, to run beside those of the build, with no configuration but {}; may be repeated")
	f.StringVar(&once, "once", "", "run this `plan` and end")
	return cmd
}

// findRootfs gives the folder that --rootfs means: a path is one with a slash.
func findRootfs(dir, root string) (string, error) {
	if root == "" || strings.Contains(root, "/") {
		return root, nil
	}
	var last error
	for _, data := range []string{filepath.Join(dir, "worker"), systemData} {
		var path string
		if path, last = rootfs.At(filepath.Join(data, rootfs.Folder)).Find(root); last == nil {
			return path, nil
		}
	}
	return "", last
}

func (a *app) up(ctx context.Context, cfg up.Config, work func(context.Context, up.Endpoint) error) error {
	interrupt.IgnoreBrokenPipes() // a Ctrl-C ends `tee` as well, which must not be the end of what ends all else
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cfg.Self, cfg.BinDir, cfg.Typed = self, filepath.Dir(self), up.Quote(self)
	for _, arg := range a.Args {
		cfg.Typed += " " + up.Quote(arg)
	}
	cfg.Dial = func(e up.Endpoint) (up.Probe, error) { return dial(e) }
	// The children's logs are in their files; what the supervision has to say
	// beyond progress matters only when something is wrong.
	cfg.Log = slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	system, err := up.New(cfg)
	if err != nil {
		return err
	}
	return system.Run(ctx, work)
}

// serve says how to reach the system and waits for the end.
func (a *app) serve(dir string) func(context.Context, up.Endpoint) error {
	return func(ctx context.Context, e up.Endpoint) error {
		err := a.print(map[string]string{"api_url": e.URL, "api_key": e.Key, "ca_file": e.CAFile, "logs": filepath.Join(filepath.Dir(filepath.Dir(e.CAFile)), "log")},
			func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "API   %s  (browse %s/docs)\nkey   %s\nCA    %s\nlogs  %s\nshell set -a; . %s; set +a\n",
					e.URL, e.URL, e.Key, e.CAFile, filepath.Join(dir, "log"), up.Quote(filepath.Join(dir, up.ClientEnv)))
				return err
			})
		if err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
}
