package wake

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"
)

const (
	gather     = 5 * time.Millisecond
	maxPayload = 7000 // bytes; Postgres takes 7999
)

// Relay carries a hub's wakes to the hubs of other replicas.
type Relay struct {
	Hub     *Hub
	Replica string // random; a replica ignores what it said itself
	Send    func(ctx context.Context, payload string) error
	Log     *slog.Logger
}

// Run sends until ctx is done, at most one message in 5 ms.
func (r *Relay) Run(ctx context.Context) error {
	for {
		var first string
		select {
		case <-ctx.Done():
			return nil
		case first = <-r.Hub.out:
		}
		topics := r.collect(ctx, first)
		if err := r.send(ctx, topics); err != nil && ctx.Err() == nil {
			r.Log.LogAttrs(ctx, slog.LevelDebug, "wakes not sent", slog.Any("err", err))
		}
	}
}

func (r *Relay) collect(ctx context.Context, first string) []string {
	topics := []string{first}
	end := time.NewTimer(gather)
	defer end.Stop()
	for {
		select {
		case t := <-r.Hub.out:
			if len(topics) < 1000 && (strings.HasPrefix(t, "q:") || !slices.Contains(topics, t)) {
				topics = append(topics, t)
			}
		case <-end.C:
			return topics
		case <-ctx.Done():
			return topics
		}
	}
}

func (r *Relay) send(ctx context.Context, topics []string) error {
	for len(topics) > 0 {
		payload, n := r.Replica, 0
		for n < len(topics) && (n == 0 || len(payload)+1+len(topics[n]) <= maxPayload) {
			payload += "\n" + topics[n]
			n++
		}
		if err := r.Send(ctx, payload); err != nil {
			return err
		}
		topics = topics[n:]
	}
	return nil
}

// Receive takes a message of any replica.
func (r *Relay) Receive(payload string) {
	replica, rest, _ := strings.Cut(payload, "\n")
	if replica == r.Replica {
		return
	}
	for topic := range strings.SplitSeq(rest, "\n") {
		r.Hub.ring(topic)
	}
}
