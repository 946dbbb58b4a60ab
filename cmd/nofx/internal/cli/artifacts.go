package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

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
			if to == "" && local(info.Name) != nil {
				return local(info.Name)
			}
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

// saveAll downloads the artifacts that were asked for to the current folder, a
// file under its base name and a folder under its own, and prints their hashes
// on stderr. It returns what went wrong with any of them.
func (a *app) saveAll(ctx context.Context, client *server, asked []string, all []wire.ArtifactInfo) (errs []error) {
	for _, info := range all {
		to, err := place(asked, info.Name)
		if err == nil {
			err = download(ctx, client, info, to)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !a.json {
			fmt.Fprintf(a.Stderr, "%s  %s\n", info.SHA256, render.Clean(to))
		}
	}
	return errs
}

// place is where an artifact goes, below the current folder.
func place(asked []string, name string) (string, error) {
	if err := local(name); err != nil {
		return "", err
	}
	for _, want := range asked {
		if rest, ok := strings.CutPrefix(name, below(want)+"/"); ok {
			return filepath.Join(path.Base(below(want)), filepath.FromSlash(rest)), nil
		}
	}
	return path.Base(name), nil
}

// local refuses a name that could lead out of the folder that it is put into.
func local(name string) error {
	if !filepath.IsLocal(filepath.FromSlash(name)) || path.Clean(name) != name || name == "." {
		return step.Errorf(step.KindInternal, "the server sent the name %s, which is not that of a file in a workspace", render.Clean(name))
	}
	return nil
}

// below is a path of the workspace as artifacts are named.
func below(asked string) string { return strings.TrimPrefix(path.Clean(asked), "/workspace/") }

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
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as the user's umask has it
		return err
	}
	// Not named after the artifact, whose name may be as long as names can be.
	f, err := os.OpenFile(filepath.Join(dir, ".nofx-"+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // artifacts are for their user's tools
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // what is whole was moved away already
	if err := errors.Join(fetch(ctx, client, info, f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), to)
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
