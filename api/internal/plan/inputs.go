package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/nofx-run/nofx/api/internal/handler"
	"github.com/nofx-run/nofx/internal/strict"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// ownInputs is a step's inputs taken apart.
type ownInputs struct {
	all       json.RawMessage // compact
	plain     json.RawMessage // without the keys that stand for step fields
	workspace step.WorkspaceMode
	hasPolicy bool
}

// policyKey is the value of inputs._policy.
type policyKey struct {
	ToolsAllowed []string `json:"tools_allowed"`
	EnvAllowed   []string `json:"env_allowed"`
	SecretsScope []string `json:"secrets_scope"`
}

// split takes the underscore keys of older clients out of the inputs and puts
// them where they belong. A field that is given twice must say the same.
func (c compiler) split(at string, in *wire.PlanStep) ownInputs {
	out := ownInputs{all: json.RawMessage("{}"), plain: json.RawMessage("{}")}
	if len(in.Inputs) == 0 {
		return out
	}
	all, err := canonical(in.Inputs)
	if errors.Is(err, errDeep) {
		c.add(at+".inputs", nil, "must not be nested deeper than %d", maxDepth)
		return out
	}
	var fields map[string]json.RawMessage
	if err != nil || json.Unmarshal(all, &fields) != nil || fields == nil {
		c.add(at+".inputs", nil, "must be a JSON object")
		return out
	}
	out.all = all
	at += ".inputs"
	var policy policyKey
	under := map[string]any{
		"_driver": &in.Driver, "_resources": &in.Resources, "_dependsOn": &in.DependsOn, "_policy": &policy,
	}
	found := false
	for key, raw := range fields {
		if !strings.HasPrefix(key, "_") {
			continue
		}
		target, known := under[key]
		if !known {
			c.add(at+"."+key, nil, "is not a known field")
			continue
		}
		found = true
		var fault *step.Error
		if err := strict.CheckType(raw, reflect.TypeOf(target), at+"."+key); errors.As(err, &fault) {
			c.add(fault.Fields[0].Location, nil, "%s", fault.Fields[0].Message)
		} else if err := strict.Form(raw, reflect.TypeOf(target), at+"."+key); errors.As(err, &fault) {
			c.add(fault.Fields[0].Location, fault.Fields[0].Value, "%s", fault.Fields[0].Message)
		} else if err := merge(target, raw); err != nil {
			c.add(at+"."+key, nil, "%v", err)
		}
	}
	if _, out.hasPolicy = fields["_policy"]; out.hasPolicy {
		for _, list := range []struct {
			name     string
			old, new *[]string
		}{
			{"tools_allowed", &policy.ToolsAllowed, &in.ToolsAllowed},
			{"env_allowed", &policy.EnvAllowed, &in.EnvAllowed},
			{"secrets_scope", &policy.SecretsScope, &in.SecretsScope},
		} {
			if *list.old == nil {
				continue
			}
			if *list.new != nil && !reflect.DeepEqual(*list.old, *list.new) {
				c.add(at+"._policy."+list.name, nil, "differs from the step's own")
			}
			*list.new = *list.old
		}
	}
	if raw, ok := fields["workspace"]; ok && in.Tool == "bash" {
		_ = json.Unmarshal(raw, &out.workspace) // the handler's schema says what is wrong with it
	}
	out.plain = all
	if found {
		out.plain = without(all)
	}
	return out
}

// fill puts back what stands in before in the place of what is sensitive.
func (o *ownInputs) fill(h *handler.Handler, before json.RawMessage) []step.FieldError {
	same := bytes.Equal(o.plain, o.all)
	all, faults := h.Fill(o.all, before)
	if o.all, o.plain = all, all; !same {
		o.plain = without(all)
	}
	return faults
}

// redacted are inputs without what is sensitive to their handler; nil = nothing
// is.
func redacted(h *handler.Handler, inputs json.RawMessage) json.RawMessage {
	if out, found := h.Redact(inputs); found {
		return out
	}
	return nil
}

// merge decodes raw into *target, which may be set to the same already.
func merge(target any, raw json.RawMessage) error {
	old := reflect.ValueOf(target).Elem()
	fresh := reflect.New(old.Type())
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(fresh.Interface()); err != nil {
		return fmt.Errorf("is not of the right form: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if !old.IsZero() && !reflect.DeepEqual(old.Interface(), fresh.Elem().Interface()) {
		return fmt.Errorf("differs from the step's own field")
	}
	old.Set(fresh.Elem())
	return nil
}

// without drops the keys that begin with an underscore and keeps the order of
// the others. all is canonical.
func without(all json.RawMessage) json.RawMessage {
	var out bytes.Buffer
	out.WriteByte('{')
	dec := json.NewDecoder(bytes.NewReader(all))
	_, _ = dec.Token() // "{"; all was checked before
	for dec.More() {
		key, err := dec.Token()
		var v json.RawMessage
		if err != nil || dec.Decode(&v) != nil {
			return all
		}
		name, _ := key.(string)
		if strings.HasPrefix(name, "_") {
			continue
		}
		if out.Len() > 1 {
			out.WriteByte(',')
		}
		quoted, err := quote(name)
		if err != nil {
			return all
		}
		out.Write(quoted)
		out.WriteByte(':')
		out.Write(v)
	}
	out.WriteByte('}')
	return out.Bytes()
}
