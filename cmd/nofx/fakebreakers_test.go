package main

import (
	"encoding/json"
	"net/http"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// setBreaker knows the tool bash, whose breakers have met two drivers.
func setBreaker(w http.ResponseWriter, r *http.Request) {
	var in wire.SetBreaker
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	switch err := dec.Decode(&in); {
	case err != nil:
		refuse(w, step.Errorf(step.KindInvalid, "%v", err))
	case in.Tool == "exec" && in.Action == wire.BreakerReset:
		answer(w, 200, wire.BreakersSet{Tool: "exec", Drivers: []string{}, State: "closed"})
	case in.Tool != "bash":
		refuse(w, step.Errorf(step.KindNotFound, "no handler %s", in.Tool))
	case in.Reason == "not mine":
		refuse(w, step.Errorf(step.KindForbidden, "an operator key is needed here"))
	default:
		drivers := []string{"container", "local"}
		if in.Driver != "" {
			drivers = []string{in.Driver}
		}
		answer(w, 200, wire.BreakersSet{Tool: in.Tool, Drivers: drivers, State: map[wire.BreakerAction]string{
			wire.BreakerReset: "closed", wire.BreakerForceClose: "closed", wire.BreakerForceOpen: "open"}[in.Action]})
	}
}
