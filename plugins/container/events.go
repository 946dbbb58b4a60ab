package container

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"
)

// heardAgain is how long a stream of events that broke off is left alone.
const heardAgain = time.Second

// ended is what the engine said of a container's end.
type ended struct {
	oom   bool
	died  bool
	exit  string // its exit code
	asked bool   // there is no more to wait for
}

// heard keeps it for as long as the sandbox has a folder: an engine forgets a
// container that somebody removes.
type heard struct {
	mu    sync.Mutex
	boxes map[string]ended
}

func (h *heard) note(box string, change func(*ended)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.boxes == nil {
		h.boxes = map[string]ended{}
	}
	e := h.boxes[box]
	change(&e)
	h.boxes[box] = e
}

func (h *heard) of(box string) ended {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.boxes[box]
}

// keep forgets what is told of other boxes than those.
func (h *heard) keep(there func(box string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.boxes, func(box string, _ ended) bool { return !there(box) })
}

// follow listens to what the engine says of this state folder's containers
// until ctx ends. After a break it goes on where it was, for as far as the
// engine remembers.
func (d *Driver) follow(ctx context.Context, s *setup) {
	since := time.Now()
	for ctx.Err() == nil {
		err := s.engine.events(ctx, labelState, s.config.StateDir, since, func(e event) {
			since = e.at.Add(1)
			if strings.HasPrefix(e.box, boxOfLook) {
				return
			}
			d.counts.event(e.action)
			switch e.action {
			case "oom":
				d.heard.note(e.box, func(x *ended) { x.oom = true })
			case "die":
				d.heard.note(e.box, func(x *ended) { x.died, x.exit = true, e.exit })
			}
		})
		if ctx.Err() != nil {
			return
		}
		d.log.Debug("the engine's events broke off", "err", err)
		select {
		case <-time.After(heardAgain):
		case <-ctx.Done():
		}
	}
}

// event is one of a container's.
type event struct {
	box, action, exit string
	at                time.Time
}

// outside says how a container ended that nobody here ended.
func (e ended) outside() string {
	if !e.died {
		return ""
	}
	if n, err := strconv.Atoi(e.exit); err == nil && n > 128 {
		return "the container ended from outside, by signal " + strconv.Itoa(n-128)
	}
	return "the container ended from outside, exit " + e.exit
}
