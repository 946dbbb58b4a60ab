package wake

import (
	"slices"
	"strings"
	"sync"
)

// Hub connects wakers and waiters. Make one with New.
type Hub struct {
	mu     sync.Mutex
	topics map[string]map[*waiter]struct{} // everybody on a topic is woken
	claims []*waiter                       // first come, first served
	missed uint64                          // wakes of claims that no claim heard

	out chan string // to the other replicas
}

type waiter struct {
	bell    chan struct{} // holds one wake
	worker  string
	drivers []string
	regions []string // of each driver; "" = not known
	woken   bool     // a claim that is about to look at the queue, and sees what is told until then
	room    int      // for so many steps more
}

// takes reports whether a step with this driver in this region may be for it.
func (w *waiter) takes(driver, region string) bool {
	i := slices.Index(w.drivers, driver)
	return i >= 0 && (region == "" || w.regions[i] == "" || w.regions[i] == region)
}

func (w *waiter) ring() {
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

// New makes a hub.
func New() *Hub {
	return &Hub{topics: map[string]map[*waiter]struct{}{}, out: make(chan string, 4096)}
}

// Run and Worker are the topics of a run's events and of a worker's leases.
func Run(id string) string    { return "r:" + id }
func Worker(id string) string { return "w:" + id }

// Workspace is the topic of what stops being at work in a run's workspace.
func Workspace(run string) string { return "s:" + run }

// Wait gives a channel that holds a value after the topic was woken. Call
// cancel after use.
func (h *Hub) Wait(topic string) (woken <-chan struct{}, cancel func()) {
	w := &waiter{bell: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.topics[topic] == nil {
		h.topics[topic] = map[*waiter]struct{}{}
	}
	h.topics[topic][w] = struct{}{}
	return w.bell, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.topics[topic], w)
		if len(h.topics[topic]) == 0 {
			delete(h.topics, topic)
		}
	}
}

// WaitClaim gives a channel that holds a value when a step may be there for
// this worker, which has these drivers, each in its region ("" = not known), and
// would take up to most. Of those that wait for the same step only the first is
// woken, and for as many steps as it takes nobody else.
// Call cancel after use: a wake that came meanwhile goes to the next.
func (h *Hub) WaitClaim(worker string, drivers, regions []string, most int) (woken <-chan struct{}, cancel func()) {
	w := h.claim(&waiter{worker: worker, drivers: drivers, regions: regions, room: most})
	return w.bell, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.leave(w)
		select {
		case <-w.bell:
			h.wake(func(x *waiter) bool {
				return slices.ContainsFunc(x.drivers, func(d string) bool { return slices.Contains(w.drivers, d) })
			})
		default:
		}
	}
}

// Gather stands for a claim that is about to look: until done, nobody else is
// woken for steps that it will see.
func (h *Hub) Gather(worker string, drivers, regions []string, most int) (done func()) {
	w := h.claim(&waiter{worker: worker, drivers: drivers, regions: regions, room: most, woken: true})
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.leave(w)
	}
}

func (h *Hub) claim(w *waiter) *waiter {
	w.bell = make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.claims = append(h.claims, w)
	return w
}

func (h *Hub) leave(w *waiter) {
	h.claims = slices.DeleteFunc(h.claims, func(x *waiter) bool { return x == w })
}

// next wakes the first claim that fits, unless one that is woken already will
// take the step, too. The caller holds the lock.
func (h *Hub) next(fits func(*waiter) bool) {
	for _, w := range h.claims {
		if w.woken && w.room > 0 && fits(w) {
			w.room--
			return
		}
	}
	h.wake(fits)
}

// wake wakes the first claim that fits and is not woken yet, or counts that
// there is none. The caller holds the lock.
func (h *Hub) wake(fits func(*waiter) bool) {
	for _, w := range h.claims {
		if !w.woken && fits(w) {
			w.woken = true
			w.room--
			w.ring()
			return
		}
	}
	h.missed++
}

// room is the topic of Room.
const room = "m:"

func all(*waiter) bool { return true }

// Topics wakes everybody on the topics, here and at the other replicas.
func (h *Hub) Topics(topics ...string) {
	for _, t := range topics {
		h.ring(t)
		h.tell(t)
	}
}

// Queued wakes one claim for a step that is queued for a driver in a region, ""
// being anywhere; pin is the one worker that may take it, or "".
func (h *Hub) Queued(driver, region, pin string) {
	topic := "q:" + region + ":" + pin + ":" + driver // only a driver's name may hold a colon
	h.ring(topic)
	h.tell(topic)
}

// Vacated tells that a step of the run is not at work in its workspace any more,
// which is on this worker. If somebody waits for that, a claim of the worker is
// woken, too.
func (h *Hub) Vacated(run, worker string) {
	topic := "s:" + worker + ":" + run
	h.ring(topic)
	h.tell(topic)
}

// More wakes the next claim: there is more than one claim could take.
func (h *Hub) More() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wake(all)
}

// Room wakes a claim, here and at each of the other replicas: a step may begin
// now that was held back, and nobody knows whose it is.
func (h *Hub) Room() {
	h.ring(room)
	h.tell(room)
}

// All wakes every claim and every waiter, after wakes may have been lost.
func (h *Hub) All() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.missed++ // who comes too late for it
	for _, w := range h.claims {
		w.woken = true
		w.ring()
	}
	for _, waiters := range h.topics {
		for w := range waiters {
			w.ring()
		}
	}
}

func (h *Hub) ring(topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if rest, ok := strings.CutPrefix(topic, "q:"); ok {
		region, rest, _ := strings.Cut(rest, ":")
		pin, driver, _ := strings.Cut(rest, ":")
		h.next(func(w *waiter) bool { return (pin == "" || pin == w.worker) && w.takes(driver, region) })
		return
	}
	if topic == room {
		h.wake(all)
		return
	}
	worker := ""
	if rest, ok := strings.CutPrefix(topic, "s:"); ok {
		var run string
		worker, run, _ = strings.Cut(rest, ":")
		topic = Workspace(run)
	}
	for w := range h.topics[topic] {
		w.ring()
	}
	if worker != "" && len(h.topics[topic]) > 0 {
		h.wake(func(w *waiter) bool { return w.worker == worker }) // it looks whether they were rung
	}
}

func (h *Hub) tell(topic string) {
	select {
	case h.out <- topic:
	default: // they poll
	}
}

// Waiting is how many claims wait.
func (h *Hub) Waiting() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, w := range h.claims {
		if !w.woken {
			n++
		}
	}
	return n
}

// Missed counts the wakes of claims that no claim heard. Who looked, and finds
// it as it was when it began to look, has missed nothing.
func (h *Hub) Missed() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.missed
}

// Some wakes the first n claims. Those that find nothing wait again, behind
// the others.
func (h *Hub) Some(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for range n {
		h.wake(all)
	}
}
