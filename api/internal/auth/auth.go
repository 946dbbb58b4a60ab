package auth

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// Principal is who asks.
type Principal struct {
	KeyID    string
	TenantID string
	Role     Role
}

// Keys looks a key up by the sha256 of its text. A key that is not there,
// expired or revoked is an error of kind not_found.
type Keys interface {
	UseKey(ctx context.Context, hash []byte) (Principal, error)
}

// remember is how long a key is believed without another look: a revoked key
// works that long at most.
const (
	remember = 5 * time.Second
	most     = 10_000 // remembered keys
)

// Checker finds principals. It is safe for concurrent use.
type Checker struct {
	Keys Keys

	mu      sync.Mutex
	known   map[[32]byte]entry
	flights map[[32]byte]*flight
}

type entry struct {
	who   Principal
	until time.Time
}

// flight is a look at a key that is under way.
type flight struct {
	done chan struct{}
	who  Principal
	err  error
}

// Check reads an Authorization header. role is the one that the endpoint
// takes; an operator is a user, too.
func (c *Checker) Check(ctx context.Context, header string, role Role) (Principal, error) {
	scheme, text, _ := strings.Cut(header, " ")
	text = strings.TrimSpace(text)
	if !strings.EqualFold(scheme, "bearer") || !wellFormed(text) {
		return Principal{}, refused()
	}
	who, err := c.lookUp(ctx, text)
	if err != nil {
		return Principal{}, err
	}
	if who.Role != role && (role != User || who.Role != Operator) {
		article := "a"
		if role == Operator {
			article = "an"
		}
		return Principal{}, step.Errorf(step.KindForbidden, "%s %s key is needed here", article, role)
	}
	return who, nil
}

func refused() error { return step.Errorf(step.KindUnauthorized, "a valid API key is needed") }

// lookUp asks once at a time for each key: its row notes each use, so that many
// at once would wait for each other. Who is believed for some time yet need
// not wait; one request asks anew before that is over.
func (c *Checker) lookUp(ctx context.Context, text string) (Principal, error) {
	sum := [32]byte(hash(text))
	c.mu.Lock()
	e, known := c.known[sum]
	left := time.Until(e.until)
	f, asked := c.flights[sum]
	if known && left > 0 && (asked || left > remember/2) {
		c.mu.Unlock()
		return e.who, nil
	}
	if asked {
		c.mu.Unlock()
		select {
		case <-f.done:
			return f.who, f.err
		case <-ctx.Done():
			return Principal{}, step.Errorf(step.KindUnavailable, "the request was given up")
		}
	}
	f = &flight{done: make(chan struct{}), err: step.Errorf(step.KindInternal, "the key was not looked up")}
	if c.flights == nil {
		c.flights = map[[32]byte]*flight{}
	}
	c.flights[sum] = f
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.flights, sum)
		close(f.done)
	}()
	now := time.Now()
	f.who, f.err = c.Keys.UseKey(context.WithoutCancel(ctx), sum[:]) // others wait for it
	switch {
	case f.err == nil:
		c.keep(sum, entry{who: f.who, until: now.Add(remember)})
	case step.Is(f.err, step.KindNotFound):
		c.drop(sum)
		f.err = refused()
	case known && left > 0:
		return e.who, nil
	}
	return f.who, f.err
}

func (c *Checker) keep(sum [32]byte, e entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= most {
		c.known = map[[32]byte]entry{}
	}
	c.known[sum] = e
}

func (c *Checker) drop(sum [32]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, sum)
}
