// Package failpoint holds a process at a named place of a step's life, so that a
// test can kill it, or another one, exactly there.
//
// It does so only in binaries that are built with the tag failpoint, which are
// for test/killmatrix and are never shipped. In all others Points is empty,
// nothing is read from the environment, and Hold is compiled to nothing, so that
// nobody can use it against a running system: TestShippedBinaries looks into
// them.
package failpoint

// The places. Where it says of, the name of a step tells whose.
const (
	RunCommitted     = "run-committed"     // API: a run is stored, its client not told
	Claim            = "claim"             // daemon: before it asks for leases
	Claimed          = "claimed"           // daemon, of: the lease is given, the ledger has it not
	Created          = "created"           // daemon, of: the sandbox exists, its handle is not written down
	Output           = "output"            // daemon, of: a piece of output has come, the journal has it not
	Exited           = "exited"            // daemon, of: the command has exited, nothing is collected or told
	Uploading        = "uploading"         // daemon, of: before each of its artifacts is uploaded
	Saved            = "saved"             // daemon, of: the layer of its run's workspace is uploaded, no verdict names it
	Restoring        = "restoring"         // daemon, of: before each layer that its run's workspace is put together of
	VerdictStored    = "verdict-stored"    // API, of: inside the transaction, before the commit
	VerdictCommitted = "verdict-committed" // API, of: the worker has no answer yet
	Reported         = "reported"          // daemon, of: the verdict is on its way, the sandbox is there
	Destroyed        = "destroyed"         // daemon, of: the API has the verdict, the ledger the entry
	Cancelling       = "cancelling"        // daemon, of: it knows of the cancellation, the step does not
)

// Env names the variable with the folder that a test arms places in.
const Env = "NOFX_FAILPOINTS"
