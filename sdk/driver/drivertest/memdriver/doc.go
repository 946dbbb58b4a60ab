// Package memdriver is a driver whose sandboxes live in memory: no process, no
// file, no kernel. It keeps the whole contract of package driver, exits, caps,
// deadlines and file transfer included, so that everything above a driver can
// be tested and measured without one.
//
// Sandboxes belong to a World. A Driver is one "driver process" over it: drop
// it and make another of the same World, and Recover finds everything again.
//
// What runs are the built-in programs of programs.go, found by the base name of
// Argv[0]: true, false, echo, cat, sleep, env, pwd, seq, tee, rm, kill, sh and
// bash with -c (a small subset, shell.go), and "mem" with sub-commands that do
// what the conformance suite needs. Any other name ends with 127, as in a shell.
package memdriver
