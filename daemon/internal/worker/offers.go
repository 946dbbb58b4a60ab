package worker

import (
	"context"
	"strconv"
	"strings"

	"github.com/nofx-run/nofx/sdk/wire"
)

// The API gives a worker only what its drivers, as it knows them, can do. So
// it must hear of a change before the next claim, not with a later heartbeat.

// heard notes what the API has been told of the drivers.
func (w *Worker) heard(infos []wire.DriverInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = offer(infos)
}

// tellChanges registers again when the drivers are not as the API knows them.
func (w *Worker) tellChanges(ctx context.Context) error {
	now := offer(w.cfg.Drivers.Infos())
	w.mu.Lock()
	same := now == w.told
	w.mu.Unlock()
	if same {
		return nil
	}
	return w.register(ctx)
}

// offer is what counts for claims in what is known of the drivers.
func offer(infos []wire.DriverInfo) string {
	var b strings.Builder
	for _, d := range infos {
		b.WriteString(strings.Join([]string{d.Name, d.Version, strconv.FormatBool(d.Healthy), strings.Join(d.Capabilities, " "), d.Region}, "\t") + "\n")
	}
	return b.String()
}
