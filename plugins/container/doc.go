// Package container is the driver that runs steps in containers of a Docker
// Engine (API 1.41 or newer) on the daemon's own host.
//
// The engine makes the container: image, namespaces, mounts, caps. What it
// executes is nofx-supervisor, mounted read-only, as PID 1; that connects to a
// supervisor on the host, from which on a container is a sandbox as any other:
// its execs, output, clocks and files are the supervisor's, not the engine's,
// need nothing in the image, and outlive plugin, daemon and engine.
package container
