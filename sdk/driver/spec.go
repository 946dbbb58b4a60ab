package driver

import (
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// Spec asks for a sandbox.
type Spec struct {
	ID        string // 1 to 128 of [A-Za-z0-9._-], unique in the installation
	Tags      Tags
	Resources step.Resources // zero = no cap asked for
	Network   step.Network
	Egress    step.Egress // whom it may call, with a network
	Image     string      // "" = the driver's default
	Isolation string      // "" = the driver's default; IsolationNamespace or IsolationGVisor
	Until     Deadline    // killed then, unless Extend moves it; 0 = never
	Host      *HostSpec
}

// Tags mark a sandbox as ours, wherever it lives.
type Tags struct {
	Owner string // nofx_owner: the installation
	ID    string // nofx_id: tenant, run, step, generation, attempt, epoch, packed
}

// HostSpec is what the daemon prepared on its own host. Drivers without
// CapHost refuse it; drivers with it need it for what it names.
type HostSpec struct {
	// Cgroup is where the sandbox's processes go. The daemon made it, set its
	// limits and removes it.
	Cgroup Cgroup
	// Supervisor is where the sandbox's supervisor goes: outside the step's
	// caps, outside the daemon's and the plugin's groups.
	Supervisor Cgroup
	// UIDBase is the first of UIDCount host uids (and gids) that are this
	// sandbox's alone. UIDBase is the sandbox's root, UIDBase+1 its step user.
	UIDBase  uint32
	UIDCount uint32
	// Workspace is a host folder to show at /workspace, "" for a private one
	// that goes with the sandbox. Its files belong to WorkspaceUID on disk,
	// whatever uid the step has in its sandbox.
	Workspace    string
	WorkspaceUID uint32
}

// Cgroup names a control group by its folders, absolute paths.
type Cgroup struct {
	// V2 is the folder in the unified hierarchy, "" on a v1 host.
	V2 string
	// V1 is the folder in each v1 hierarchy, by controller: cpu, cpuacct,
	// memory, pids, freezer.
	V1 map[string]string
}

// ExecSpec asks for a process tree in a sandbox.
type ExecSpec struct {
	ID          string   // 1 to 64 of [A-Za-z0-9._-], unique in the sandbox
	Argv        []string // Argv[0] is looked up in the PATH of Env
	Env         []string // "K=V", complete
	Cwd         string   // absolute inside the sandbox; "" = /workspace
	User        string   // "" = the step user; "root" = the sandbox's own root
	TTY         *TTY
	Stdin       []byte // then end of file; empty = closed from the start
	Timeout     time.Duration
	Grace       time.Duration   // between TERM and KILL at the timeout
	OutputLimit int64           // bytes over both streams; 0 = none
	OnOutput    step.OutputMode // past the limit
}

// TTY asks for a terminal of a size in characters.
type TTY struct{ Cols, Rows uint16 }

// ExecEvent is one event of an exec: output, or its end.
type ExecEvent struct {
	Stream Stream
	Offset int64 // of Data in the exec's output, both streams counted together
	Data   []byte
	Exit   *Exit // set on the last event only, which carries no data
}

// Stream tells stdout from stderr.
type Stream uint8

const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// Exit is how an exec ended. Cause is exit, signal, timeout, oom, pids, disk,
// output, cancelled or lost; Code and Signal are the main process's own end in
// every case where it is known.
type Exit struct {
	Cause       step.Cause
	Code        int    // 0..255; -1 when it did not exit by itself
	Signal      string // like "SIGKILL"; "" when it exited by itself
	Attested    string // step.Attested…
	Message     string
	Usage       step.Usage
	OutputBytes int64 // kept, so that Attach can read them
	TotalBytes  int64 // written by the step
	Truncated   bool
}

// Stats is the use of a sandbox. Negative = not known.
type Stats struct {
	CPUUsec      int64
	MemoryBytes  int64
	MemoryPeak   int64
	Pids         int64
	PidsPeak     int64
	IOReadBytes  int64
	IOWriteBytes int64
	NetRxBytes   int64
	NetTxBytes   int64
}
