package worker

import "github.com/nofx-run/nofx/sdk/wire"

// gate is a circuit breaker: before a lane, on a driver.
type gate struct{ lane, driver string }

// bar remembers which breakers let nothing through, as the last heartbeat's
// answer said, with their generations.
func (w *Worker) bar(list []wire.Barrier) {
	barred := make(map[gate]int64, len(list))
	for _, b := range list {
		barred[gate{b.Lane, b.Driver}] = b.Generation
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.barriers = barred
}

// barred reports whether the attempt's breaker has opened since it was claimed.
// What has begun goes on all the same, and so does the breaker's own probe.
func (a *attempt) barred() bool {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	generation, there := a.w.barriers[gate{a.lease.Lane, a.lease.Driver}]
	return there && generation > a.lease.BreakerGeneration
}
