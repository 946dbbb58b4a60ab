package driver

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// Driver runs sandboxes. Every method is safe for concurrent use and returns
// when its context ends.
type Driver interface {
	// Describe tells what the driver is and can do. It works before Configure,
	// and again after it: what a driver can do may depend on its configuration.
	Describe(ctx context.Context) (Description, error)

	// Configure takes the driver's configuration, valid against
	// Description.ConfigSchema. It may be called again with a new one: running
	// sandboxes keep what they were made with.
	Configure(ctx context.Context, config json.RawMessage) error

	// Create makes a sandbox that is ready for Exec. A repeat with the same
	// Spec.ID returns the same sandbox; conflict if the spec differs in
	// anything but Until, which only Extend moves.
	Create(ctx context.Context, spec Spec) (Handle, error)

	// Recover finds a sandbox again after the driver, the daemon or the host
	// has restarted. PhaseGone is an answer, not an error; an error means that
	// the driver could not tell.
	Recover(ctx context.Context, h Handle) (State, error)

	// Extend moves the moment at which the sandbox is killed if nobody extends
	// it again. It never moves it back.
	Extend(ctx context.Context, h Handle, until Deadline) error

	// Exec starts a process tree and streams its output to sink until it has
	// exited and everything it wrote was delivered; the last event carries
	// Exit. An error from sink ends the call and detaches.
	Exec(ctx context.Context, h Handle, spec ExecSpec, sink Sink) error

	// Attach streams like Exec from an offset in the exec's output, counted
	// in bytes over both streams.
	Attach(ctx context.Context, h Handle, execID string, offset int64, sink Sink) error

	// Signal sends a signal, named like "SIGTERM", to the exec's main process
	// and its process group; with SIGKILL, to its whole tree. conflict when it
	// has exited.
	Signal(ctx context.Context, h Handle, execID, signal string) error

	// Stop ends every exec of the sandbox: TERM, then KILL of the whole tree
	// after grace. It returns when no process of a step is left. cause is what
	// the execs' Exit then says: CauseCancelled or CauseTimeout.
	Stop(ctx context.Context, h Handle, grace time.Duration, cause step.Cause) error

	// Destroy removes the sandbox and all that belongs to it.
	Destroy(ctx context.Context, h Handle) error

	// CopyIn unpacks a tar stream below dir, an absolute path resolved inside
	// the sandbox's own view. Regular files, folders and symbolic links only;
	// anything else, and a name that leaves dir, is refused as invalid.
	CopyIn(ctx context.Context, h Handle, dir string, tar io.Reader) error

	// CopyOut writes the file or folder at path as a tar stream. The names in
	// it are relative to path's parent. limit bounds the bytes of the files
	// (0 = the driver's own bound): too_large when it is passed. Special files
	// are left out of folders, and refused as invalid by themselves.
	CopyOut(ctx context.Context, h Handle, path string, limit int64, tar io.Writer) error

	// Stats tells what the sandbox uses now and used at most.
	Stats(ctx context.Context, h Handle) (Stats, error)

	// Health sends the driver's state at once, at each change and at least
	// every 10 s, until ctx ends.
	Health(ctx context.Context, sink func(Health) error) error

	// List gives every sandbox whose tag nofx_owner is owner, in every phase,
	// whoever made it. It never shows a foreign one.
	List(ctx context.Context, owner string) ([]Listed, error)
}

// Invoker is for back ends that only run a function: a request in, a response
// out. A lost response is an error of kind unavailable; the verdict is lost.
type Invoker interface {
	Invoke(ctx context.Context, req Invocation) (Response, error)
}

// Sink receives the events of one exec in order. The event's Data is the
// driver's again when it returns: copy what is to stay.
type Sink func(ExecEvent) error

// Description is a driver's own account of itself.
type Description struct {
	Name             string
	Version          string
	ProtocolVersions []int // driverrpc's to say; what a driver in Go puts here is not used
	Capabilities     Capabilities
	ConfigSchema     json.RawMessage // JSON Schema 2020-12, as package configschema takes it
	Warnings         []string        // shown to operators, such as "development root file system"
}

// Health is a driver's state.
type Health struct {
	Healthy bool
	Message string // why not, or a warning
}

// Phase is where a sandbox is in its life.
type Phase string

const (
	PhaseCreated Phase = "created" // exists, no exec yet
	PhaseRunning Phase = "running" // an exec is running
	PhasePaused  Phase = "paused"
	PhaseExited  Phase = "exited" // the execs have ended, output and exits can be read
	PhaseGone    Phase = "gone"
)

// State is what Recover found.
type State struct {
	Phase Phase
	Execs []ExecState
}

// ExecState is one exec of a recovered sandbox.
type ExecState struct {
	ID          string
	Exit        *Exit // nil while it runs
	OutputBytes int64 // that can be read with Attach
}

// Listed is one sandbox in a List.
type Listed struct {
	Handle    Handle
	Tags      Tags
	Phase     Phase
	CreatedAt time.Time
}

// Handle names a sandbox. Data is the driver's own, at most MaxHandle bytes,
// with no secret in it; Version is the driver's version of its encoding.
type Handle struct {
	Driver  string `json:"driver"`
	ID      string `json:"id"` // Spec.ID
	Version int    `json:"version"`
	Data    []byte `json:"data,omitempty"`
}

// MaxHandle bounds Handle.Data, in bytes.
const MaxHandle = 16 << 10

// Invocation is one request to a function back end.
type Invocation struct {
	ID      string // idempotent by it
	Tags    Tags
	Body    []byte
	Timeout time.Duration
}

// Response is a function's answer.
type Response struct {
	Body []byte
	Exit Exit
}
