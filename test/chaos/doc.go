// Package chaos drives a whole fleet with a seeded load while faults are put
// into it at random, and has an offline checker judge what came of it.
//
// A seed decides what is submitted, in which order, and which fault hits what,
// when and for how long; how the processes interleave is the machine's. When
// the time is over all faults are mended, everything that was accepted has to
// end within a bound, every host sweeps, and then package invariant judges what
// clients were told, what steps did, the tables, and what is left on the hosts.
// Two things are judged here besides: a verdict has to be what its step did,
// and a step finds in its workspace what the step before it has left.
//
//	make chaos                      five minutes, with a seed that it prints
//	NOFX_CHAOS_SEED=7 make chaos    the same load and the same faults again
//
// # What cannot be had here
//
// A step of the clock of hosts and APIs: CLOCK_REALTIME is one for the whole
// machine, and what fakes it needs the C library, which NOFX's programs are not
// linked with. Postgres is, and its clock is the one that leases, turns and waits
// count by: it steps by up to an hour, ahead and back. A time namespace shifts the
// monotonic clocks only, from its first process on: one host lives in such a one
// for good, a day ahead of the others, so that whatever compared the clocks of two
// hosts would show.
//
// A supervisor that is stopped cannot end its sandbox when the lease does. It
// is the last line and nothing watches it, so it is stopped for less than a
// lease, and only while nothing else is wrong.
//
// Redis: nothing in NOFX has one configured, so there is none to break.
package chaos
