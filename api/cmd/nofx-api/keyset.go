package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/nofx-run/nofx/api"
)

// keys are those of users and workers, and those that what is sensitive is
// sealed with.
func keys(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "create":
		return createKey(ctx, args, out)
	case "new":
		return newKeyset(args[1:], out)
	case "rotate":
		return rotateKeyset(args[1:], out)
	case "list":
		if len(args) != 2 {
			return errUsage
		}
		return api.ListKeyset(args[1], out)
	case "drop":
		return dropKey(ctx, args[1:], out)
	case "reseal":
		return reseal(ctx, args[1:], out)
	}
	return errUsage
}

func newKeyset(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errUsage
	}
	id, err := api.NewKeyset(args[0])
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s has the key %s. Without the file nobody reads what it seals: keep a copy, and not where the database's backups are\n", args[0], id)
	return err
}

func rotateKeyset(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("nofx-api keys rotate", flag.ContinueOnError)
	stage := flags.Bool("stage", false, "add a key that opens and does not seal yet, for replicas that do not share the file")
	if flags.Parse(args) != nil || flags.NArg() != 1 {
		return errUsage
	}
	id, err := api.RotateKeyset(flags.Arg(0), *stage)
	if err != nil {
		return err
	}
	next := "restart every replica of the API, then nofx-api keys reseal"
	if *stage {
		next = "give every replica of the API the file and restart it, then rotate again"
	}
	_, err = fmt.Fprintf(out, "key %s; next: %s\n", id, next)
	return err
}

func dropKey(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 {
		return errUsage
	}
	cfg, err := resealConfig(args[0])
	if err != nil {
		return err
	}
	if err := api.DropKey(ctx, cfg, args[1]); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "the key %s is gone; next: restart every replica of the API\n", args[1])
	return err
}

func reseal(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 0 {
		return errUsage
	}
	cfg, err := resealConfig(os.Getenv("NOFX_KEYSET_FILE"))
	if err != nil {
		return err
	}
	return api.Reseal(ctx, cfg, out)
}

func resealConfig(file string) (api.ResealConfig, error) {
	url := os.Getenv("NOFX_SYSTEM_DATABASE_URL")
	if url == "" {
		return api.ResealConfig{}, errors.New("NOFX_SYSTEM_DATABASE_URL is not set")
	}
	return api.ResealConfig{SystemURL: url, KeysetFile: file, HandlersDir: os.Getenv("NOFX_HANDLERS_DIR"), ProfilesFile: os.Getenv("NOFX_PROFILES_FILE")}, nil
}
