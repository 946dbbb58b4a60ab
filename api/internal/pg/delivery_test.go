package pg_test

import (
	"testing"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// Whoever notes what came of a try when its time was long over changes nothing of
// the try that came after it.
func TestLateNotesOfDeliveries(t *testing.T) {
	t.Parallel()
	db := server.Database(t)
	admin := connect(t, db.Admin)
	fill(t, admin, "alpha") // a message to the receiver r
	q := pgdb.New(connect(t, db.System))
	take := func(want int) (rows []pgdb.TakeDeliveriesRow) {
		t.Helper()
		rows, err := q.TakeDeliveries(t.Context(), pgdb.TakeDeliveriesParams{LeaseSeconds: 60, Most: 10, Failing: 10})
		if err != nil || len(rows) != want {
			t.Fatalf("%+v, %v", rows, err)
		}
		return rows
	}
	free := func(r pgdb.TakeDeliveriesRow) {
		t.Helper()
		if err := q.FreeReceiver(t.Context(), pgdb.FreeReceiverParams{TenantID: r.TenantID, Name: r.Receiver, BusyUntil: r.BusyUntil, Failing: true}); err != nil {
			t.Fatal(err)
		}
	}
	failed := func(r pgdb.TakeDeliveriesRow) {
		t.Helper()
		if err := q.DeliveryFailed(t.Context(), pgdb.DeliveryFailedParams{ID: r.ID, Tries: r.Tries, Said: "late", WaitSeconds: 0}); err != nil {
			t.Fatal(err)
		}
	}
	noted := func(when string, want string) {
		t.Helper()
		got := column(t, admin, `SELECT concat_ws(' ', d.tries, d.said, d.done_at IS NOT NULL, d.next_at > now(), a.busy_until > now(), a.failing)
			FROM nofx.alert_delivery d JOIN nofx.alert_receiver a ON a.name = d.receiver`)
		if len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	first := take(1)[0]
	exec(t, admin, "INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, kind) VALUES ('msg-other', 'alpha', 'r', 'test')")
	take(0) // the receiver is told something already
	exec(t, admin, "DELETE FROM nofx.alert_delivery WHERE id = 'msg-other'")
	exec(t, admin, "UPDATE nofx.alert_delivery SET next_at = now(); UPDATE nofx.alert_receiver SET busy_until = now()")
	second := take(1)[0]
	const taken = "2  f t t f"
	noted("taken again", taken)
	free(first)
	failed(first)
	noted("the first is noted late", taken)
	free(second)
	if err := q.DeliveryDone(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	failed(second)
	noted("done", "2  t t")
}
