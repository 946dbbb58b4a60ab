// Package wake tells waiting requests that something happened: a claim that a
// step was queued for it, a stream that its run has new events, a heartbeat
// that an attempt is to be cancelled.
//
// A wake is a hint and nothing else. Who is woken looks at the database, and
// everybody who waits also looks from time to time by itself, so a lost wake
// costs time but no work. Wakes of this process arrive at once; those of other
// replicas through Postgres's NOTIFY, gathered for a few milliseconds.
package wake
