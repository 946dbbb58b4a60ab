package reseal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/secret"
)

func stepsAfter(sensitive func(tool string) bool) func(context.Context, *pgdb.Queries, row) ([]row, error) {
	return func(ctx context.Context, db *pgdb.Queries, last row) ([]row, error) {
		list, err := db.StepsToSeal(ctx, last.id, page)
		out := make([]row, len(list))
		for i, r := range list {
			out[i] = row{r.TenantID, r.ID, r.Tool, r.Head, len(r.Head) == 0 && sensitive(r.Tool)}
		}
		return out, err
	}
}

func (s *Service) step(ctx context.Context, db *pgdb.Queries, r row) (o outcome, unopened, err error) {
	was, err := db.StepToSeal(ctx, r.id)
	if errors.Is(err, pg.ErrNoRow) {
		return left, nil, nil
	}
	if err != nil {
		return left, nil, err
	}
	if len(was.Sealed) > 0 {
		if s.Keys.Current(was.Sealed) {
			return left, nil, nil
		}
		content, unopened := s.Keys.OpenStep(r.tenant, r.id, was.Sealed)
		if unopened != nil {
			return left, unopened, nil
		}
		fresh, err := s.Keys.SealStep(r.tenant, r.id, content)
		if err != nil {
			return left, nil, err
		}
		n, err := db.ResealStep(ctx, pgdb.ResealStepParams{ID: r.id, Sealed: fresh, Was: was.Sealed})
		return wrote(n, resealed), nil, err
	}
	h, known := s.Handlers.Find(r.tool)
	if !known {
		return left, nil, nil
	}
	redacted, found := h.Redact(was.Inputs)
	if !found {
		return left, nil, nil
	}
	fresh, err := s.Keys.SealStep(r.tenant, r.id, secret.Step{Inputs: was.Inputs, Command: was.Command})
	if err != nil {
		return left, nil, err
	}
	p := pgdb.SealStepParams{ID: r.id, Inputs: redacted, Shown: h.ForPeople(was.Inputs, was.Shown), Sealed: fresh,
		WasInputs: string(was.Inputs), WasCommand: string(was.Command), WasOutputs: string(was.Outputs)}
	if p.Shown != was.Shown {
		p.Outputs = renamed(was.Outputs, was.Shown, p.Shown)
	}
	n, err := db.SealStep(ctx, p)
	return wrote(n, sealed), nil, err
}

// renamed are outputs whose command, for people, is another one; nil when they
// do not tell it.
func renamed(outputs []byte, from, to string) []byte {
	old, err := json.Marshal(map[string]string{"command": from})
	if err != nil {
		return nil
	}
	fresh, err := json.Marshal(map[string]string{"command": to})
	if err != nil {
		return nil
	}
	if rest, there := bytes.CutPrefix(outputs, old[:len(old)-1]); there {
		return append(fresh[:len(fresh)-1], rest...)
	}
	return nil
}

func deadAfter(sensitive func(tool string) bool) func(context.Context, *pgdb.Queries, row) ([]row, error) {
	return func(ctx context.Context, db *pgdb.Queries, last row) ([]row, error) {
		list, err := db.DeadToSeal(ctx, last.id, page)
		out := make([]row, len(list))
		for i, r := range list {
			out[i] = row{r.TenantID, r.ID, r.Tool, r.Head, len(r.Head) == 0 && r.Kept && sensitive(r.Tool)}
		}
		return out, err
	}
}

func (s *Service) dead(ctx context.Context, db *pgdb.Queries, r row) (o outcome, unopened, err error) {
	was, err := db.DeadStepToSeal(ctx, r.id)
	if errors.Is(err, pg.ErrNoRow) {
		return left, nil, nil
	}
	if err != nil {
		return left, nil, err
	}
	if len(was.Sealed) > 0 {
		if s.Keys.Current(was.Sealed) {
			return left, nil, nil
		}
		inputs, unopened := s.Keys.OpenDead(r.tenant, r.id, was.Sealed)
		if unopened != nil {
			return left, unopened, nil
		}
		fresh, err := s.Keys.SealDead(r.tenant, r.id, inputs)
		if err != nil {
			return left, nil, err
		}
		n, err := db.ResealDead(ctx, pgdb.ResealDeadParams{ID: r.id, Sealed: fresh, Was: was.Sealed})
		return wrote(n, resealed), nil, err
	}
	h, known := s.Handlers.Find(r.tool)
	if !known {
		return left, nil, nil
	}
	redacted, found := h.Redact(was.Inputs)
	if !found || bytes.Equal(redacted, was.Inputs) { // kept while the key was away
		return left, nil, nil
	}
	fresh, err := s.Keys.SealDead(r.tenant, r.id, was.Inputs)
	if err != nil {
		return left, nil, err
	}
	n, err := db.SealDead(ctx, pgdb.SealDeadParams{ID: r.id, Inputs: redacted, Sealed: fresh, WasInputs: string(was.Inputs)})
	return wrote(n, sealed), nil, err
}

func receiversAfter(ctx context.Context, db *pgdb.Queries, last row) ([]row, error) {
	list, err := db.ReceiversToSeal(ctx, pgdb.ReceiversToSealParams{AfterTenant: last.tenant, AfterName: last.id, Most: page})
	out := make([]row, len(list))
	for i, r := range list {
		out[i] = row{tenant: r.TenantID, id: r.Name, head: r.Head, clear: len(r.Head) == 0}
	}
	return out, err
}

func (s *Service) receiver(ctx context.Context, db *pgdb.Queries, r row) (o outcome, unopened, err error) {
	was, err := db.ReceiverToSeal(ctx, r.tenant, r.id)
	if errors.Is(err, pg.ErrNoRow) {
		return left, nil, nil
	}
	if err != nil {
		return left, nil, err
	}
	content := secret.Receiver{URL: was.Url, Secret: was.Secret}
	if len(was.Sealed) > 0 {
		if s.Keys.Current(was.Sealed) {
			return left, nil, nil
		}
		if content, unopened = s.Keys.OpenReceiver(r.tenant, r.id, was.Sealed); unopened != nil {
			return left, unopened, nil
		}
	}
	fresh, err := s.Keys.SealReceiver(r.tenant, r.id, content)
	if err != nil {
		return left, nil, err
	}
	if len(was.Sealed) > 0 {
		n, err := db.ResealReceiver(ctx, pgdb.ResealReceiverParams{TenantID: r.tenant, Name: r.id, Sealed: fresh, Was: was.Sealed})
		return wrote(n, resealed), nil, err
	}
	n, err := db.SealReceiver(ctx, pgdb.SealReceiverParams{TenantID: r.tenant, Name: r.id, Sealed: fresh, WasUrl: was.Url, WasSecret: was.Secret})
	return wrote(n, sealed), nil, err
}
