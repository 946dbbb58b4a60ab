package secret_test

import (
	"testing"

	"github.com/nofx-run/nofx/api/internal/secret"
)

// What comes out is what went in, to the byte: hashes are made of it.
func TestRows(t *testing.T) {
	t.Parallel()
	k := load(t, fileOf(t))
	const inputs = `{"env":{"A":"<a> & b \u2028` + "\u2028" + `","N":1.50}}`
	sealed, err := k.SealStep("acme", "step_1", secret.Step{Inputs: []byte(inputs), Command: []byte(`{"argv":["<"]}`)})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := k.OpenStep("acme", "step_1", sealed); err != nil || string(s.Inputs) != inputs || string(s.Command) != `{"argv":["<"]}` {
		t.Errorf("%s %s %v", s.Inputs, s.Command, err)
	}
	if _, err := k.OpenDead("acme", "step_1", sealed); err == nil {
		t.Error("a step's opens as an entry's")
	}
	kept, err := k.SealDead("acme", "dead_1", []byte(inputs))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.OpenDead("acme", "dead_1", kept); err != nil || string(got) != inputs {
		t.Errorf("%s %v", got, err)
	}
	to, err := k.SealReceiver("acme", "ops", secret.Receiver{URL: "https://x/?a=1&b=2", Secret: "whsec_"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := k.OpenReceiver("acme", "ops", to); err != nil || r.URL != "https://x/?a=1&b=2" || r.Secret != "whsec_" {
		t.Errorf("%+v %v", r, err)
	}
}
