// Package bench measures the whole system, the real processes with what
// production has on: row level security, journal, TLS, caps, seccomp, and a
// Postgres that fsyncs. Run it with
//
//	make bench
//
// which measures bare sandboxes next to their peers too. What it exports is for
// benchmarks of other packages: contenders that take turns, and the gate that
// keeps ratios of a busy machine back. Times of one run are good for that run
// and machine only; quote ratios from the same run. docs/benchmarks.md has the
// targets, their commands and the last figures.
package bench
