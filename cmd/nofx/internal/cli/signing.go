package cli

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/cmd/nofx/internal/signing"
	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/step"
)

func (a *app) keygenCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "keygen --out FILE",
		Short: "make a key to sign driver plugins with",
		Long: "Writes a new private key to FILE, for you alone, and its public half to FILE.pub: that one goes to\n" +
			"each worker host, where plugin_key_file in nofxd's configuration names it. Neither file may exist.",
		Args: cobra.NoArgs,
		RunE: run(func(*cobra.Command, []string) error {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			data, err := pluginmanifest.EncodePrivateKey(key)
			if err != nil {
				return err
			}
			public := pluginmanifest.PublicOf(key)
			if err := writeNew(out, data, 0o600); err != nil {
				return err
			}
			if err := writeNew(out+".pub", public.Encode(), 0o644); err != nil {
				return errors.Join(err, os.Remove(out))
			}
			v := map[string]string{"key_id": public.ID(), "private_key": out, "public_key": out + ".pub"}
			return a.print(v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "key %s: private in %s, public in %s.pub\n", public.ID(), out, out)
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "the private key's `FILE`")
	required(cmd, "out")
	return cmd
}

// writeNew writes a file that does not exist yet.
func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return step.Errorf(step.KindInvalid, "%w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func (a *app) signCommand() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use:   "sign --key FILE DIR",
		Short: "sign the driver plugins of a folder",
		Long: "Writes DIR/" + pluginmanifest.Name + ", which names each nofx-driver-* in DIR with its version and hash, and\n" +
			"its signature beside it. A script is signed with all other files in its folder. Each plugin is started to ask it what it is: sign only what you would run.\n\n" +
			"Exit codes: 0 signed, 2 usage, 3 a plugin could not be asked; nothing is written then.",
		Args: cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			key, err := pluginmanifest.ReadPrivateKey(keyFile)
			if err != nil {
				return err
			}
			plugins, err := signing.Sign(cmd.Context(), args[0], key)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"key_id": pluginmanifest.PublicOf(key).ID(), "plugins": plugins}, func(w io.Writer) error {
				rows := make([][]string, 0, len(plugins))
				for _, p := range plugins {
					rows = append(rows, []string{p.Name, p.Version, fmt.Sprint(p.ProtocolVersions), p.SHA256})
				}
				if err := render.Table(w, []string{"NAME", "VERSION", "PROTOCOLS", "SHA256"}, rows); err != nil {
					return err
				}
				_, err := fmt.Fprintf(w, "\nsigned with key %s: %s\n", pluginmanifest.PublicOf(key).ID(), filepath.Join(args[0], pluginmanifest.Name))
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "the private key's `FILE`, as keygen makes it")
	required(cmd, "key")
	return cmd
}

func (a *app) verifyCommand() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use:   "verify --public-key FILE DIR",
		Short: "check the driver plugins of a folder against its signed manifest",
		Long: "Checks that the manifest in DIR is signed with the key, and that it vouches for each nofx-driver-* in DIR\n" +
			"as the file is now, a script with all other files in its folder. Nothing is started. The daemon checks besides\n" +
			"who owns the files.\n\n" +
			"Exit codes: 0 everything is as it was signed, 1 something is not, 2 usage.",
		Args: cobra.ExactArgs(1),
		RunE: run(func(_ *cobra.Command, args []string) error {
			key, err := pluginmanifest.ReadPublicKey(keyFile)
			if err != nil {
				return err
			}
			report, err := signing.Verify(args[0], key)
			if err != nil {
				return err
			}
			if err := a.print(report, func(w io.Writer) error {
				rows := make([][]string, 0, len(report.Plugins))
				for _, p := range report.Plugins {
					rows = append(rows, []string{p.Name, p.Version, p.Status, p.SHA256})
				}
				return render.Table(w, []string{"NAME", "VERSION", "STATUS", "SHA256"}, rows)
			}); err != nil {
				return err
			}
			if !report.Valid {
				if report.Problem != "" {
					a.say("%s", render.Clean(report.Problem))
				}
				return code(exitFailed)
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&keyFile, "public-key", "", "the public key's `FILE`")
	required(cmd, "public-key")
	return cmd
}

// required makes a flag one that must be given. It panics on a name that the
// command does not have.
func required(cmd *cobra.Command, flag string) {
	if err := cmd.MarkFlagRequired(flag); err != nil {
		panic(err)
	}
}
