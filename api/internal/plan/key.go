package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/nofx-run/nofx/sdk/wire"
)

// maxDepth bounds the nesting of inputs.
const maxDepth = 100

var errDeep = errors.New("nested too deeply")

// IdempotencyKey is a step's key: the same step of the same run with the same
// inputs always has it. It is stored once and never computed again.
func IdempotencyKey(runID string, s Step) string {
	return runID + ":" + s.Name + ":" + s.InputsHash
}

// inputsHash is over the compact inputs, in their order, with the policy. A
// policy that the step gives in its own fields is added as older clients would
// have sent it.
func inputsHash(inputs json.RawMessage, s wire.PlanStep, hasPolicy bool) string {
	text := inputs
	if !hasPolicy && (s.ToolsAllowed != nil || s.EnvAllowed != nil || s.SecretsScope != nil) {
		policy := struct {
			ToolsAllowed []string `json:"tools_allowed,omitempty"`
			EnvAllowed   []string `json:"env_allowed,omitempty"`
			SecretsScope []string `json:"secrets_scope,omitempty"`
		}{s.ToolsAllowed, s.EnvAllowed, s.SecretsScope}
		var tail bytes.Buffer
		enc := json.NewEncoder(&tail)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(policy) // lists of strings always marshal
		text = append(bytes.Clone(inputs[:len(inputs)-1]), `,"_policy":`...)
		if len(inputs) == len("{}") {
			text = []byte(`{"_policy":`)
		}
		text = append(append(text, bytes.TrimRight(tail.Bytes(), "\n")...), '}')
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:12]
}

// canonical is JSON in its compact form: keys in the order that they came in,
// numbers as written, strings escaped only where JSON demands it.
func canonical(raw json.RawMessage) (json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var out bytes.Buffer
	if err := value(dec, &out, 0); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func value(dec *json.Decoder, out *bytes.Buffer, depth int) error {
	if depth > maxDepth {
		return errDeep
	}
	t, err := dec.Token()
	if err != nil {
		return err
	}
	open, isDelim := t.(json.Delim)
	if !isDelim {
		return scalar(t, out)
	}
	out.WriteRune(rune(open))
	for first := true; dec.More(); first = false {
		if !first {
			out.WriteByte(',')
		}
		if open == '{' {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			if err := scalar(key, out); err != nil {
				return err
			}
			out.WriteByte(':')
		}
		if err := value(dec, out, depth+1); err != nil {
			return err
		}
	}
	end, err := dec.Token()
	if err != nil {
		return err
	}
	if d, ok := end.(json.Delim); ok {
		out.WriteRune(rune(d))
	}
	return nil
}

func scalar(t json.Token, out *bytes.Buffer) error {
	if n, ok := t.(json.Number); ok {
		out.WriteString(n.String())
		return nil
	}
	text, err := quote(t)
	out.Write(text)
	return err
}

// quote is a string, boolean or null as JSON, without HTML escaping.
func quote(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n"), err
}
