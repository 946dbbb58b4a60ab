// Package supervisor is the Go side of nofx-supervisor, the static C program
// (src/) that starts, watches and ends sandboxes: it starts its spawner, asks
// it for sandboxes, talks to the supervisor of each, and reads the files that
// a supervisor keeps.
//
// Everything that a supervisor knows is in its sandbox's folder, below the
// driver's state folder:
//
//	state           who runs it; locked for as long as the supervisor lives
//	ctl.sock        its control socket
//	exec-<id>.out   output in frames, while the exec runs and after
//	exec-<id>.exit  how the exec ended, there from the moment that it has
//
// so that a driver that starts anew finds all of it again, also when the
// supervisor itself is gone.
package supervisor
