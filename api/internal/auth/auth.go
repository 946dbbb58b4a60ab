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

	mu    sync.Mutex
	known map[[32]byte]entry
}

type entry struct {
	who   Principal
	until time.Time
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

func (c *Checker) lookUp(ctx context.Context, text string) (Principal, error) {
	sum := [32]byte(hash(text))
	now := time.Now()
	c.mu.Lock()
	e, ok := c.known[sum]
	c.mu.Unlock()
	if ok && now.Before(e.until) {
		return e.who, nil
	}
	who, err := c.Keys.UseKey(ctx, sum[:])
	if step.Is(err, step.KindNotFound) {
		return Principal{}, refused()
	}
	if err != nil {
		return Principal{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= most {
		c.known = map[[32]byte]entry{}
	}
	c.known[sum] = entry{who: who, until: now.Add(remember)}
	return who, nil
}
