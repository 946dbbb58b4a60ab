package driver

import "slices"

// Capability is one thing that a driver can do. What is not listed in its
// Description, it refuses.
type Capability string

const (
	// Caps that it enforces.
	CapCPU      Capability = "cap.cpu"
	CapMemory   Capability = "cap.memory"
	CapPids     Capability = "cap.pids"
	CapDisk     Capability = "cap.disk"
	CapBlockIO  Capability = "cap.blockio"
	CapWallTime Capability = "cap.walltime"
	CapOutput   Capability = "cap.output"
	CapNetNone  Capability = "net.none"
	CapNetAllow Capability = "net.allow"
	CapNetOpen  Capability = "net.open"
	// CapNetGVisor: the networks that it has, in sandboxes with gVisor for a kernel, too.
	CapNetGVisor Capability = "net.gvisor"
	// Isolation levels that a sandbox of it can have. A driver without any
	// refuses a spec that names one.
	CapIsolationNamespace Capability = "isolation.namespace"
	CapIsolationGVisor    Capability = "isolation.gvisor"
	// What else it can do.
	CapHost      Capability = "host"      // runs on the daemon's host: takes HostSpec, its cgroup and workspace
	CapFiles     Capability = "files"     // CopyIn, CopyOut
	CapTTY       Capability = "tty"       // ExecSpec.TTY
	CapMultiExec Capability = "multiexec" // several execs in one sandbox
	CapReattach  Capability = "reattach"  // output and exit survive the driver's process
	CapLease     Capability = "lease"     // the sandbox dies at its deadline by itself
	CapStats     Capability = "stats"
	CapInvoke    Capability = "invoke" // implements Invoker
	CapTenant    Capability = "tenant" // works with the credentials of the step's tenant: what fails for one says nothing of another
)

// The isolation levels that a Spec can ask for.
const (
	IsolationNamespace = "namespace" // the host's kernel, behind namespaces and a filter
	IsolationGVisor    = "gvisor"    // a kernel of the sandbox's own, gVisor's
)

// Capabilities is a driver's list.
type Capabilities []Capability

// Has reports whether c is in the list.
func (cs Capabilities) Has(c Capability) bool { return slices.Contains(cs, c) }
