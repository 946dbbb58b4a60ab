// Package local is the driver that runs steps on the daemon's own host, in
// sandboxes of its own making: fresh user, mount, pid, ipc, uts, cgroup and
// network namespaces, an unprivileged uid of the sandbox's alone, a read-only
// root, a seccomp filter and no_new_privs.
//
// The driver keeps no state. A sandbox is one supervisor process (package
// supervisor) and one folder below the driver's state folder; both outlive
// the driver, and a driver that starts anew finds them there.
package local
