package queue

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/api/internal/secret"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// kept is how a step's inputs and command lie in its row.
type kept struct {
	inputs, command []byte
	sealed          []byte // nil = they lie in clear
}

// keep makes them of a step. A step that has nothing to hide is kept as it is.
func (q *Queue) keep(tenant, id string, st plan.Step) (kept, error) {
	command, err := json.Marshal(st.Command)
	if err != nil || st.Redacted == nil {
		return kept{inputs: st.Inputs, command: command}, err
	}
	sealed, err := q.cfg.Secrets.SealStep(tenant, id, secret.Step{Inputs: st.Inputs, Command: command})
	if err != nil {
		return kept{}, err
	}
	return kept{st.Redacted, []byte("{}"), sealed}, nil
}

// sealable refuses steps whose inputs must not lie in clear where there is no
// keyset to seal them with. at says where a step is, by its place.
func (q *Queue) sealable(steps []plan.Step, at func(i int) string) error {
	why := q.cfg.Secrets.Ready()
	if why == nil {
		return nil
	}
	var fields []step.FieldError
	for i, st := range steps {
		if st.Redacted != nil {
			fields = append(fields, step.FieldError{Location: at(i) + ".inputs", Message: fmt.Sprintf("some of them are sensitive to the handler %s and are not kept in clear: %v", st.Handler, why)})
		}
	}
	if len(fields) == 0 {
		return nil
	}
	return &step.Error{Kind: step.KindInvalid, Message: fields[0].Location + ": " + fields[0].Message, Fields: fields}
}

// keepInputs leaves the inputs of a step that is about to get other ones to the
// entries of its generations so far. What cannot be opened any more stays a
// place holder in them.
func (o *reopening) keepInputs(ctx context.Context, db *pgdb.Queries, stepID string) error {
	rows, err := db.KeepInputs(ctx, o.who.TenantID, stepID)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if len(r.Sealed) == 0 {
			continue
		}
		keys := o.q.cfg.Secrets
		was, err := keys.OpenStep(o.who.TenantID, stepID, r.Sealed)
		if err != nil {
			continue
		}
		sealed, err := keys.SealDead(o.who.TenantID, r.ID, was.Inputs)
		if err != nil {
			return err
		}
		if err := db.KeepSealed(ctx, pgdb.KeepSealedParams{TenantID: o.who.TenantID, ID: r.ID, Sealed: sealed}); err != nil {
			return err
		}
	}
	return nil
}

// inputsOf are the inputs of an entry's step in clear. When they cannot be
// opened, they come back with their place holders, beside the error: other ones
// that refer to none of these will do.
func (q *Queue) inputsOf(tenant string, row pgdb.DeadPlacesRow) (json.RawMessage, error) {
	if len(row.Sealed) == 0 {
		return row.Inputs, nil
	}
	was, err := q.cfg.Secrets.OpenStep(tenant, row.StepID, row.Sealed)
	if err != nil {
		return row.Inputs, err
	}
	return was.Inputs, nil
}

// commandOf is the command of a lease in clear. Its errors are for operators.
func (q *Queue) commandOf(r pgdb.LeasesOfClaimRow) (c wire.Command, err error) {
	raw := json.RawMessage(r.Command)
	if len(r.Sealed) > 0 {
		was, err := q.cfg.Secrets.OpenStep(r.TenantID, r.StepID, r.Sealed)
		if err != nil {
			return c, err
		}
		raw = was.Command
	}
	if json.Unmarshal(raw, &c) != nil || len(c.Argv) == 0 {
		return c, secret.ErrChanged // every handler's command has a word
	}
	return c, nil
}
