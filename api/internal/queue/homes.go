package queue

import "sync"

// homes remembers where the drivers of workers are, for wakes: who is elsewhere
// is not woken. What it forgets costs one wake.
type homes struct {
	mu sync.Mutex
	at map[string]map[string]offer // by worker, then driver
}

const maxHomes = 10_000

func (h *homes) note(worker string, have map[string]offer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at == nil || len(h.at) >= maxHomes && h.at[worker] == nil {
		h.at = map[string]map[string]offer{}
	}
	h.at[worker] = have
}

// of are the regions of a worker's drivers, by place; "" = not known.
func (h *homes) of(worker string, drivers []string) []string {
	h.mu.Lock()
	have := h.at[worker]
	h.mu.Unlock()
	out := make([]string, len(drivers))
	for i, d := range drivers {
		out[i] = have[d].region
	}
	return out
}
