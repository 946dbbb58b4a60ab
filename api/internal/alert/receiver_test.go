package alert

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/secret"
)

// The secret of before is one for its time only.
func TestSecretOfBefore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keyset.json")
	if _, err := secret.Create(file); err != nil {
		t.Fatal(err)
	}
	keys, err := secret.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{Keys: keys}
	for _, c := range []struct {
		left time.Duration
		want string
	}{{time.Minute, "whsec_old"}, {-time.Second, ""}} {
		sealed, err := keys.SealReceiver("acme", "ops", secret.Receiver{Secret: "whsec_new", Before: "whsec_old", Until: time.Now().Add(c.left)})
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.receiver(pgdb.TakeDeliveriesRow{TenantID: "acme", Receiver: "ops", ReceiverKind: "webhook", Sealed: sealed})
		if err != nil || got.Secret != "whsec_new" || got.Before != c.want {
			t.Errorf("with %v left: %+v, %v", c.left, got, err)
		}
	}
}
