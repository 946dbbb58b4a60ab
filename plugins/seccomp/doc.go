// Package seccomp is the system call filter of every step that runs on the
// daemon's host, in whatever sandbox.
package seccomp
