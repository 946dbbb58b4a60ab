package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/wire"
)

// What is refused again and again does not keep what is behind it from being
// reached: each request that chooses by a filter goes on where the last one ended.
func TestManyGoOnBehindTheRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	r.die(r.worker("host"), failing)
	old := r.dead(wire.DeadFilter{})[0]
	r.sql(`INSERT INTO nofx.step_dlq SELECT (jsonb_populate_record(d, jsonb_build_object('id', 'dead_z' || lpad(n::text, 3, '0'), 'generation', 100 + n))).* FROM nofx.step_dlq d, generate_series(1, 150) n`)
	all := func(dry bool) (done, refused []string) {
		in := map[string]any{"match": map[string]any{}, "dry_run": dry}
		for range 3 {
			body, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			resp, raw := r.call(http.MethodPost, "/api/dlq/requeue", r.keys["acme user"], body)
			var out wire.Resolved
			if err := json.Unmarshal(raw, &out); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", resp.StatusCode, raw)
			}
			done = append(done, out.Done...)
			for _, one := range out.Refused {
				refused = append(refused, one.ID)
			}
			if out.More != (out.NextCursor != "") {
				t.Fatalf("more %v, from %q on", out.More, out.NextCursor)
			}
			if !out.More {
				return done, refused
			}
			in["cursor"] = out.NextCursor
		}
		t.Fatal("there is no end")
		return nil, nil
	}
	got, err := r.user.DiscardMany(t.Context(), wire.ResolveMany{Match: &wire.DeadFilter{}, DryRun: true}, "")
	if err != nil || len(got.Done) != wire.MaxResolve || got.NextCursor != got.Done[wire.MaxResolve-1] {
		t.Errorf("%d, %q, %v", len(got.Done), got.NextCursor, err)
	}
	for _, dry := range []bool{true, false} {
		done, refused := all(dry)
		if !slices.Equal(done, []string{old.ID}) || len(refused) != 150 || !slices.IsSortedFunc(refused, func(a, b string) int { return strings.Compare(b, a) }) {
			t.Errorf("dry %v: %v done, %d refused", dry, done, len(refused))
		}
	}
	for _, body := range []string{`{"ids":["` + old.ID + `"],"cursor":"` + old.ID + `"}`, `{"match":{},"cursor":"~"}`} {
		if resp, raw := r.call(http.MethodPost, "/api/dlq/discard", r.keys["acme user"], []byte(body)); resp.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", body, resp.StatusCode, raw)
		}
	}
}
