package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (a *app) artifactsCommand() *cobra.Command {
	return group("artifacts", "what steps left behind", a.artifactsGetCommand())
}

func (a *app) artifactsGetCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "get runs/RUN/steps/STEP/NAME",
		Short: "download an artifact; nofx runs get lists the paths",
		Args:  cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			name := strings.TrimPrefix(args[0], "/artifacts/")
			client, err := a.connect()
			if err != nil {
				return err
			}
			info, err := findArtifact(cmd.Context(), client, name)
			if err != nil {
				return err
			}
			if output == "-" {
				return fetch(cmd.Context(), client, info, a.Stdout)
			}
			to := output
			if to == "" {
				to = path.Base(info.Name)
			}
			if err := download(cmd.Context(), client, info, to); err != nil {
				return err
			}
			return a.print(struct {
				wire.ArtifactInfo
				File string `json:"file"`
			}{info, to}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s  %s\n", info.SHA256, render.Clean(to))
				return err
			})
		}),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "the `file` to write, - for stdout (default: the base name, here)")
	return cmd
}

// findArtifact looks the path up in its run, which knows its hash and size.
func findArtifact(ctx context.Context, client *server, name string) (wire.ArtifactInfo, error) {
	parts := strings.SplitN(name, "/", 5)
	if len(parts) != 5 || parts[0] != "runs" || parts[2] != "steps" {
		return wire.ArtifactInfo{}, step.Errorf(step.KindInvalid, "%s is not runs/RUN/steps/STEP/NAME", name)
	}
	detail, err := client.Run(ctx, parts[1])
	if err != nil {
		return wire.ArtifactInfo{}, err
	}
	for _, info := range detail.Artifacts {
		if info.Path == name {
			return info, nil
		}
	}
	return wire.ArtifactInfo{}, step.Errorf(step.KindNotFound, "run %s has no artifact %s", parts[1], name)
}

// saveAll downloads artifacts to the current folder under their base names and
// prints their hashes on stderr.
func (a *app) saveAll(ctx context.Context, client *server, all []wire.ArtifactInfo) error {
	var errs []error
	for _, info := range all {
		to := path.Base(info.Name)
		if err := download(ctx, client, info, to); err != nil {
			errs = append(errs, err)
			continue
		}
		if !a.json {
			fmt.Fprintf(a.Stderr, "%s  %s\n", info.SHA256, render.Clean(to))
		}
	}
	return errors.Join(errs...)
}

// tellMissing says which of the artifacts that were asked for the step did not
// leave.
func (a *app) tellMissing(asked []string, all []wire.ArtifactInfo) {
	for _, name := range asked {
		rel := strings.TrimPrefix(path.Clean(name), "/workspace/")
		if !slices.ContainsFunc(all, func(info wire.ArtifactInfo) bool { return info.Name == rel }) {
			a.say("artifact %s: the step left no such file", render.Clean(name))
		}
	}
}

// download writes the artifact to a file, which appears only when it is whole
// and its hash is right. A device or pipe is written to, not replaced.
func download(ctx context.Context, client *server, info wire.ArtifactInfo, to string) error {
	if there, err := os.Stat(to); err == nil && !there.Mode().IsRegular() {
		if there.IsDir() {
			return step.Errorf(step.KindInvalid, "%s is a folder: name a file", to)
		}
		f, err := os.OpenFile(to, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(fetch(ctx, client, info, f), f.Close())
	}
	f, err := renameio.NewPendingFile(to, renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Dir(to), err)
	}
	defer func() { _ = f.Cleanup() }() // what is whole was moved away already
	if err := fetch(ctx, client, info, f); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// fetch copies the artifact to w and checks its size and hash.
func fetch(ctx context.Context, client *server, info wire.ArtifactInfo, w io.Writer) error {
	body, err := client.Artifact(ctx, info.Path)
	if err != nil {
		return err
	}
	defer body.Close()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, hash), io.LimitReader(body, info.Size+1))
	if err != nil {
		return fmt.Errorf("artifact %s: %w", info.Name, err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); n != info.Size || got != info.SHA256 {
		return step.Errorf(step.KindInternal, "artifact %s: got %d bytes with sha256 %s, expected %d with %s", info.Name, n, got, info.Size, info.SHA256)
	}
	return nil
}
