package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/onestep"
	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/cmd/nofx/internal/rootfs"
	"github.com/nofx-run/nofx/sdk/step"
)

// systemData is the data folder of a daemon that systemd runs.
const systemData = "/var/lib/nofx"

// rootfsFlags are what its commands share.
type rootfsFlags struct {
	data, config, maxSize string
}

func (f *rootfsFlags) store() (*rootfs.Store, error) {
	s, err := rootfs.Open(filepath.Join(f.data, rootfs.Folder))
	if err == nil {
		s.Configs = []string{f.config}
	}
	return s, err
}

// existing is store for commands that make none.
func (f *rootfsFlags) existing() (*rootfs.Store, error) {
	dir := filepath.Join(f.data, rootfs.Folder)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return rootfs.At(dir), nil
	}
	return f.store()
}

func (f *rootfsFlags) limits() (rootfs.Limits, error) {
	limits := rootfs.DefaultLimits()
	var err error
	limits.Size, err = onestep.ParseSize("--max-size", f.maxSize)
	return limits, err
}

func (f *rootfsFlags) bounded(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&f.maxSize, "max-size", "8Gi", "most `size` that its files may have together")
	return cmd
}

func (a *app) rootfsCommand() *cobra.Command {
	var f rootfsFlags
	cmd := group("rootfs", "make and keep root file systems for the driver local",
		f.bounded(a.rootfsBuildCommand(&f)), f.bounded(a.rootfsImportCommand(&f)), a.rootfsListCommand(&f), a.rootfsRemoveCommand(&f))
	cmd.Long = "A root file system is a folder that steps see as their root, in the place of the host's own /usr. Nothing on\n" +
		"the host executes its files. The driver local takes one by rootfs: PATH in nofxd's configuration, and nofx up\n" +
		"by --rootfs NAME. As root, on the worker host; no server is needed."
	cmd.PersistentFlags().StringVar(&f.data, "data", systemData, "the daemon's data `folder`; of nofx up, its data folder and /worker")
	cmd.PersistentFlags().StringVar(&f.config, "config", "/etc/nofx/nofxd.yaml", "nofxd's configuration `file`, to see which ones it names")
	return cmd
}

func (a *app) rootfsBuildCommand(f *rootfsFlags) *cobra.Command {
	var r rootfs.Recipe
	cmd := &cobra.Command{
		Use:   "build NAME",
		Short: "make one from Debian packages",
		Long: "Makes a minimal Debian with the packages named, by debootstrap. The packages' own scripts run as root on this\n" +
			"host meanwhile: build from a mirror that you would install from. It takes a minute or two.",
		Args: cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			s, err := f.store()
			if err != nil {
				return err
			}
			limits, err := f.limits()
			if err != nil {
				return err
			}
			if r.Debootstrap, err = exec.LookPath("debootstrap"); err != nil {
				return step.Errorf(step.KindUnavailable, "debootstrap is not there; type: apt-get install debootstrap")
			}
			for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
				if v := a.Getenv(name); v != "" {
					r.Env = append(r.Env, name+"="+v)
				}
			}
			r.Log = io.Discard
			if !a.json {
				r.Log = a.Stderr
			}
			image, err := s.Build(cmd.Context(), args[0], r, limits)
			if err != nil {
				return err
			}
			return a.printImage(image)
		}),
	}
	cmd.Flags().StringVar(&r.Suite, "suite", "", "Debian `suite`, like bookworm (default: the host's own)")
	cmd.Flags().StringVar(&r.Mirror, "mirror", "", "`URL` of a Debian mirror (default: the host's package source of the suite)")
	cmd.Flags().StringSliceVar(&r.Packages, "package", nil, "`package` to put in besides; may be repeated, or several with commas")
	return cmd
}

func (a *app) rootfsImportCommand(f *rootfsFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "import NAME FILE|FOLDER|-",
		Short: "make one from a tar archive or a folder",
		Long: "Makes one from a tar archive, plain or with gzip, from standard input with -, or from a folder, which is copied.\n" +
			"Of a container image: docker export CONTAINER | nofx rootfs import NAME -\n\n" +
			"Devices, set-id bits, owners and extended attributes (file capabilities among them) are left out. Names and\n" +
			"links that lead out of the archive are refused, and nothing is left of one that is.",
		Args: cobra.ExactArgs(2),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			s, err := f.store()
			if err != nil {
				return err
			}
			limits, err := f.limits()
			if err != nil {
				return err
			}
			image, err := a.importRootfs(cmd, s, args[0], args[1], limits)
			if err != nil {
				return err
			}
			return a.printImage(image)
		}),
	}
}

func (a *app) importRootfs(cmd *cobra.Command, s *rootfs.Store, name, from string, limits rootfs.Limits) (rootfs.Image, error) {
	if from == "-" {
		return s.Import(cmd.Context(), name, rootfs.Source{Reader: a.Stdin, Name: "standard input"}, limits)
	}
	info, err := os.Stat(from)
	if err != nil {
		return rootfs.Image{}, step.Errorf(step.KindInvalid, "%w", err)
	}
	if info.IsDir() {
		return s.ImportFolder(cmd.Context(), name, from, limits)
	}
	file, err := os.Open(from)
	if err != nil {
		return rootfs.Image{}, step.Errorf(step.KindInvalid, "%w", err)
	}
	defer file.Close()
	return s.Import(cmd.Context(), name, rootfs.Source{Reader: file, Name: from}, limits)
}

// printImage tells what was made.
func (a *app) printImage(i rootfs.Image) error {
	return a.print(i, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s in %d entries, in %s\nsha256 of its archive: %s\n", i.Name, render.Bytes(i.Size), i.Entries, i.Path, i.SHA256)
		if err != nil {
			return err
		}
		for _, l := range []struct {
			n    int
			what string
		}{
			{i.Left.Devices, "devices and the like left out"},
			{i.Left.SetID, "set-id or sticky bits left out"},
			{i.Left.Attributes, "entries without their extended attributes"},
			{i.Left.Closed, "entries that no step can read: they are closed to others than their owner"},
		} {
			if l.n > 0 {
				if _, err := fmt.Fprintf(w, "%d %s\n", l.n, l.what); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (a *app) rootfsListCommand(f *rootfsFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list those of this host, and what uses them",
		Args:  cobra.NoArgs,
		RunE: run(func(*cobra.Command, []string) error {
			s, err := f.existing()
			if err != nil {
				return err
			}
			images, err := s.List()
			if err != nil {
				return err
			}
			return a.print(map[string]any{"rootfs": images}, func(w io.Writer) error {
				rows := make([][]string, 0, len(images))
				for _, i := range images {
					created, sum := "", i.SHA256
					if !i.Created.IsZero() {
						created = i.Created.Format(time.RFC3339)
					}
					if len(sum) > 12 {
						sum = sum[:12]
					}
					rows = append(rows, []string{i.Name, created, render.Bytes(i.Size), strconv.Itoa(i.Entries), sum, i.Source, strings.Join(i.UsedBy, ", ")})
				}
				return render.Table(w, []string{"NAME", "CREATED", "SIZE", "ENTRIES", "SHA256", "SOURCE", "USED BY"}, rows)
			})
		}),
	}
}

func (a *app) rootfsRemoveCommand(f *rootfsFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "remove some that nothing uses",
		Long:  "Removes root file systems. One that nofxd's configuration names, or that a sandbox or a driver has mounted, stays.",
		Args:  cobra.MinimumNArgs(1),
		RunE: run(func(_ *cobra.Command, args []string) error {
			s, err := f.existing()
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := s.Remove(name); err != nil {
					return err
				}
			}
			return a.print(map[string]any{"removed": args}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "removed %s\n", strings.Join(args, ", "))
				return err
			})
		}),
	}
}
