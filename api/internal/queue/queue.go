// Package queue owns the life of runs, steps and attempts: it stores what is
// submitted, leases steps to workers, applies what workers report, and takes
// back what they lost.
//
// Every change is one transaction: state, events, audit rows. A write of a
// worker carries its fence, which the UPDATE that makes the change compares;
// a stale one changes nothing. Locks are taken in the order that package pg
// says. Wakes go out after the commit.
//
// Under load work comes together: submissions of a tenant share transactions,
// and claims wait a moment for more steps. What comes alone waits for nothing.
package queue

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/nofx-run/nofx/api/internal/blob"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/secret"
	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/internal/failpoint"
)

// Config holds what can be chosen.
type Config struct {
	Lease     time.Duration // how long a lease lasts after it was given or renewed
	Heartbeat time.Duration // how often workers renew
	Region    string
	// WorkspaceWait is how long a run waits for a lost worker that has its
	// workspace before its steps fail. 0 = 15 minutes.
	WorkspaceWait time.Duration
	// WorkspaceKeep is how long a worker keeps the workspace of a run that
	// failed, so that its steps can be tried again.
	WorkspaceKeep time.Duration
	// DriverWait is how long a step waits for a worker that has its driver
	// before it fails. 0 = for ever.
	DriverWait time.Duration
	// Pressure is how long a tenant's oldest step may be due before its run is
	// told that the queue stands. 0 = it is not told.
	Pressure time.Duration
	// RegionWait is how long its region must have been without such a worker
	// before a step goes to another of its regions. 0 = for ever.
	RegionWait time.Duration
	// MaxProjects is how many projects a tenant may have. 0 = 1000.
	MaxProjects int
	Fleet       Fleet    // nil = nobody knows where workers are
	Rules       Rules    // of breakers; nil = the defaults for all
	Observer    Observer // nil = nobody
	Points      failpoint.Points
	Secrets     *secret.Keys // what must not lie in clear is sealed with; nil = it is refused
}

// Queue is safe for concurrent use.
type Queue struct {
	cfg      Config
	db       *pg.DB
	blobs    *blob.Dir
	hub      *wake.Hub
	posts    posts
	empty    empty
	idle     idle
	told     told
	homes    homes
	spent    spent
	left     left
	claiming *semaphore.Weighted // places for claims that look
	found    atomic.Int64        // when a claim last found something, in ns
	// Whom room that becomes free may concern.
	holding holding
	bounded few
	log     *slog.Logger
}

// New makes a queue over a database, a blob store and a hub.
func New(cfg Config, db *pg.DB, blobs *blob.Dir, hub *wake.Hub, log *slog.Logger) *Queue {
	if cfg.WorkspaceWait == 0 {
		cfg.WorkspaceWait = 15 * time.Minute
	}
	if cfg.MaxProjects == 0 {
		cfg.MaxProjects = 1000
	}
	if cfg.Rules == nil {
		cfg.Rules = defaultRules{}
	}
	if cfg.Observer == nil {
		cfg.Observer = deaf{}
	}
	if cfg.Fleet == nil {
		cfg.Fleet = unseen{}
	}
	return &Queue{cfg: cfg, db: db, blobs: blobs, hub: hub, log: log, claiming: semaphore.NewWeighted(mostClaiming)}
}

// NewID makes an id that sorts by its time: prefix_ and 26 characters of 48
// bits of milliseconds and 80 random bits.
func NewID(prefix string) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMilli())<<16) //nolint:gosec // after 1970
	_, _ = rand.Read(b[6:])                                               // never fails
	return prefix + "_" + idEncoding.EncodeToString(b[:])
}

// idEncoding keeps the order of the bytes and needs no escaping anywhere.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)
