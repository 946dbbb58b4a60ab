package api_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nofx-run/nofx/api"
)

// mute is a receiver that does not answer before it is let go.
type mute struct {
	*httptest.Server

	arrived chan string // paths
	gaveUp  atomic.Int32
	letGo   func()
}

func newMute(t *testing.T) *mute {
	t.Helper()
	gate := make(chan struct{})
	m := &mute{arrived: make(chan string, 1000), letGo: sync.OnceFunc(func() { close(gate) })}
	m.Server = httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		m.arrived <- r.URL.Path
		select {
		case <-gate:
		case <-r.Context().Done():
			m.gaveUp.Add(1)
		}
	}))
	t.Cleanup(func() { m.letGo(); m.Close() })
	return m
}

func (m *mute) wait(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		select {
		case <-m.arrived:
		case <-time.After(time.Minute):
			t.Fatalf("%d calls of %d", i, n)
		}
	}
}

func (r *rig) receiver(name, url string) {
	r.t.Helper()
	if _, err := api.SetAlertReceiver(r.t.Context(), r.db.Admin, api.AlertReceiver{KeysetFile: r.cfg.KeysetFile, Tenant: "acme", Name: name, Kind: "webhook", URL: url}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) testAlert(name string) {
	r.t.Helper()
	if _, err := r.user.TestAlert(r.t.Context(), name); err != nil {
		r.t.Fatal(err)
	}
}

// Receivers that do not answer delay no other's messages, however many.
func TestDeadReceiversDelayNobody(t *testing.T) {
	t.Parallel()
	for _, dead := range []int{8, 20} {
		t.Run(fmt.Sprint(dead), func(t *testing.T) {
			t.Parallel()
			r, in := alertRig(t, "127.0.0.0/8")
			m := newMute(t)
			r.receiver("ops", in.URL)
			for i := range dead {
				r.receiver(fmt.Sprint("dead-", i), m.URL)
			}
			r.sql("INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, kind) SELECT 'msg_' || name, tenant_id, name, 'test' FROM nofx.alert_receiver WHERE name <> 'ops'")
			m.wait(t, dead)
			r.testAlert("ops")
			in.next(t)
			if n := m.gaveUp.Load(); n > 0 {
				t.Errorf("it came after %d others were given up", n)
			}
			m.letGo()
			r.eventually("the others take theirs", func() bool {
				list, err := r.user.Alerts(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				taken := 0
				for _, x := range list.Receivers {
					if x.Last == "test taken" {
						taken++
					}
				}
				return taken == dead+1
			})
		})
	}
}

// Those that failed before have a part of what is told at once, so that more of
// them than that keep nobody out.
func TestFailingReceiversHaveTheirShare(t *testing.T) {
	t.Parallel()
	const share = 16
	r, in := alertRig(t, "127.0.0.0/8")
	m := newMute(t)
	r.receiver("ops", in.URL)
	r.sql("INSERT INTO nofx.alert_receiver (tenant_id, name, kind, url, place, failing) SELECT 'acme', 'dead-' || i, 'slack', $1, 'x', true FROM generate_series(1, 200) i", m.URL)
	r.sql("INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, kind, created_at, next_at) SELECT 'msg_' || i, 'acme', 'dead-' || i, 'test', now() - interval '1 hour', now() - interval '1 hour' FROM generate_series(1, 200) i")
	m.wait(t, share)
	r.testAlert("ops")
	in.next(t)
	if n, more := m.gaveUp.Load(), len(m.arrived); n > 0 || more > 0 {
		t.Errorf("it came after %d were given up and %d more begun", n, more)
	}
	m.letGo()
	r.eventually("they take theirs, and do not count as failing any more", func() bool {
		return len(r.column("SELECT name FROM nofx.alert_receiver WHERE failing")) == 0
	})
	if left := r.column("SELECT id FROM nofx.alert_delivery WHERE done_at IS NULL"); len(left) != 0 {
		t.Errorf("not taken: %v", left)
	}
}

// Two replicas that deliver at once send each message once, and a receiver one
// at a time.
func TestReplicasDeliverOnce(t *testing.T) {
	t.Parallel()
	const each = 6
	r, in := alertRig(t, "127.0.0.0/8")
	var busy, clash atomic.Int32
	gate := make(chan struct{})
	slow := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		if busy.Add(1) > 1 {
			clash.Add(1)
		}
		select {
		case <-gate:
		case <-req.Context().Done():
		}
		busy.Add(-1)
	}))
	t.Cleanup(slow.Close)
	r.receiver("slow", slow.URL)
	r.receiver("ops", in.URL)
	for i := range 4 {
		r.receiver(fmt.Sprint("other-", i), in.URL+fmt.Sprint("/", i))
	}
	second := *r
	second.log = &buffer{}
	second.start()
	defer func() {
		if err := second.stop(); err != nil {
			t.Error(err)
		}
	}()
	r.sql(`INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, kind)
		SELECT 'msg_' || a.name || '_' || i, 'acme', a.name, 'test' FROM nofx.alert_receiver a, generate_series(1, $1) i`, each)
	got := map[string]int{}
	for range 5 * each {
		got[in.next(t).id]++
	}
	close(gate)
	r.eventually("all is taken", func() bool { return len(r.column("SELECT id FROM nofx.alert_delivery WHERE done_at IS NULL")) == 0 })
	if n := clash.Load(); n > 0 || len(got) != 5*each || len(in.received) > 0 {
		t.Errorf("%d at the same time at one receiver, %d messages to others, %d more", n, len(got), len(in.received))
	}
	if tries := r.column("SELECT id FROM nofx.alert_delivery WHERE tries <> 1"); len(tries) != 0 {
		t.Errorf("tried again: %v", tries)
	}
	if held := r.column("SELECT name FROM nofx.alert_receiver WHERE busy_until IS NOT NULL OR failing"); len(held) != 0 {
		t.Errorf("receivers that are not free: %v", held)
	}
}

// Where a request does the work, a receiver that does not answer keeps nothing
// of it, and what comes to be due meanwhile is sent.
func TestTickWaitsForNoReceiver(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	m := newMute(t)
	r.receiver("ops", in.URL)
	r.receiver("dead", m.URL)
	if err := r.stop(); err != nil { // nothing runs but what is called
		t.Fatal(err)
	}
	a, err := api.New(t.Context(), r.cfg, slog.New(slog.NewJSONHandler(r.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	const add = "INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, kind) VALUES ($1, 'acme', $2, 'test')"
	r.sql(add, "msg_dead", "dead")
	done := make(chan error, 1)
	go func() { done <- api.Tick(a, context.WithoutCancel(t.Context())) }()
	m.wait(t, 1)
	r.sql(add, "msg_ops", "ops")
	if d := in.next(t); d.id != "msg_ops" || m.gaveUp.Load() > 0 {
		t.Errorf("%s came after %d were given up", d.id, m.gaveUp.Load())
	}
	if err := <-done; err != nil {
		t.Errorf("the tick: %v", err)
	}
	if got := r.column("SELECT said FROM nofx.alert_delivery WHERE id = 'msg_dead' AND next_at IS NOT NULL AND done_at IS NULL"); len(got) != 1 || got[0] != "it did not answer in time" {
		t.Errorf("of the other: %q", got)
	}
}
