package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/reseal"
	"github.com/nofx-run/nofx/api/internal/secret"
)

// NewKeyset makes a file with one new key, which only its owner can read, and
// returns the key's id. A file that is there stays, and is an error.
func NewKeyset(file string) (id string, err error) {
	k, err := secret.Create(file)
	return secret.Name(k.ID), err
}

// RotateKeyset makes another key of the file the one that seals, and returns its
// id: a staged one, or else a new one. With stage it only adds one, which opens
// and does not seal yet.
func RotateKeyset(file string, stage bool) (id string, err error) {
	change := secret.Rotate
	if stage {
		change = secret.Stage
	}
	k, err := change(file)
	return secret.Name(k.ID), err
}

// ListKeyset prints the ids of a file's keys, the oldest first.
func ListKeyset(file string, out io.Writer) error {
	list, err := secret.List(file)
	if err != nil {
		return err
	}
	for _, k := range list {
		what := "opens"
		if k.Primary {
			what = "seals and opens"
		}
		if _, err := fmt.Fprintf(out, "%s  %s\n", secret.Name(k.ID), what); err != nil {
			return err
		}
	}
	return nil
}

// ResealConfig says what Reseal works with.
type ResealConfig struct {
	SystemURL    string
	KeysetFile   string
	HandlersDir  string // "" = the manifests that NOFX ships
	ProfilesFile string
}

// Reseal puts everything that is sealed under the keyset's primary key, and
// seals what lies in clear and should not. It prints what it did; an error says
// that something is left to do.
func Reseal(ctx context.Context, cfg ResealConfig, out io.Writer) error {
	return cfg.with(ctx, func(s *reseal.Service) error { return s.Run(ctx, out) })
}

// DropKey takes a key out of the file once nothing is sealed with it.
func DropKey(ctx context.Context, cfg ResealConfig, id string) error {
	return cfg.with(ctx, func(s *reseal.Service) error {
		n, err := s.Uses(ctx, id)
		if err != nil {
			return pg.Cause(err)
		}
		if n > 0 {
			return fmt.Errorf("%d rows are sealed with the key %s: nofx-api keys reseal first", n, id)
		}
		return secret.Drop(cfg.KeysetFile, id)
	})
}

func (c ResealConfig) with(ctx context.Context, do func(*reseal.Service) error) error {
	keys, err := secret.Load(c.KeysetFile)
	if err != nil {
		return err
	}
	sizes, err := profiles(c.ProfilesFile)
	if err != nil {
		return err
	}
	handlers, err := handlersOf(c.HandlersDir, sizes)
	if err != nil {
		return err
	}
	db, err := pg.Open(ctx, pg.Config{TenantURL: c.SystemURL, SystemURL: c.SystemURL, MaxConns: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer db.Close()
	return do(&reseal.Service{DB: db, Keys: keys, Handlers: handlers})
}
