// Package step holds the words that every part of NOFX shares: runs, steps,
// attempts, verdicts, events and error kinds. It imports only the standard
// library, so that anybody can import it.
package step
