// Package fleet runs a whole installation out of the built binaries for tests
// that break it: a private Postgres, several nofx-api, several nofxd with the
// local driver, each host with a folder, a control group and uids of its own.
//
// What `nofx up` supervises is supervised here too: a process that dies is
// started again, unless it is held down. Every link goes through a proxy that
// can delay, starve or cut it, each way by itself: clients to an API, a daemon
// to an API, an API to Postgres.
//
// Redis is not part of it: nothing in NOFX has one configured.
//
// Methods return errors and may be called from any goroutine.
package fleet
