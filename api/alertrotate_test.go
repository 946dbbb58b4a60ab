package api_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/api"
)

// A webhook's secret can be changed without a message that its receiver refuses:
// for a while each is signed with both, as Standard Webhooks has it.
func TestWebhookSecretIsRotated(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	set := func(kind string) string {
		t.Helper()
		secret, err := api.SetAlertReceiver(t.Context(), r.db.Admin, api.AlertReceiver{KeysetFile: r.cfg.KeysetFile, Tenant: "acme", Name: "ops", Kind: kind, URL: in.URL})
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	signed := func(want ...string) {
		t.Helper()
		if _, err := r.user.TestAlert(t.Context(), "ops"); err != nil {
			t.Fatal(err)
		}
		d := in.next(t)
		got := strings.Split(d.signature, " ")
		for i, secret := range want {
			key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
			if err != nil {
				t.Fatal(err)
			}
			mac := hmac.New(sha256.New, key)
			fmt.Fprintf(mac, "%s.%s.%s", d.id, d.at, d.body)
			want[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
		}
		if !slices.Equal(got, want) {
			t.Errorf("signed %q, want %q", got, want)
		}
	}
	first := set("webhook")
	signed(first)
	second := set("webhook")
	signed(second, first)
	third := set("webhook")
	signed(third, second)
	set("slack")
	alone := set("webhook")
	signed(alone)
}
