package main

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func fakeAlertRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/alerts", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, fakeAlerts()) })
	mux.HandleFunc("POST /api/alerts/rules/{rule}/silence", func(w http.ResponseWriter, r *http.Request) {
		var in wire.SilenceAlert
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.PathValue("rule") != "queue-deep" || in.Minutes != 90 {
			refuse(w, step.Errorf(step.KindNotFound, "no such rule"))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /api/alerts/receivers/{receiver}/test", func(w http.ResponseWriter, _ *http.Request) { answer(w, 202, wire.AlertTest{MessageID: "msg_1"}) })
}

func fakeAlerts() wire.AlertList {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	value := 12.5
	return wire.AlertList{
		Rules: []wire.AlertRule{
			{Name: "queue-deep", Metric: "queue_depth", Above: 10, Below: 5, ForSeconds: 300, Value: &value, Since: &at, AlertID: "alert_1"},
			{Name: "worker-lost", Metric: "workers_lost"},
		},
		Alerts:    []wire.Alert{{ID: "alert_1", Rule: "queue-deep", Metric: "queue_depth", Above: 10, Value: 11, Peak: 12.5, OpenedAt: at}},
		Receivers: []wire.AlertReceiver{{Name: "ops", Kind: "slack", Host: "hooks.example.com", Last: "fired taken"}},
	}
}
