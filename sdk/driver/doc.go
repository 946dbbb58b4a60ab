// Package driver is the seam between NOFX and whatever runs a step: the
// interface that a driver implements and the plain structs that cross it.
//
// A driver is an executable that calls driverrpc.Serve with its
// implementation; the daemon starts it as a plugin and talks gRPC to it. A
// driver keeps no durable state: everything it needs to find a sandbox again
// is in the Handle that Create returned and that the daemon stores.
//
// # Contract
//
// Package drivertest checks these promises; a driver that passes it is
// finished.
//
//   - A request that the driver cannot honour in full is refused with
//     step.KindUnsupported before anything starts. Nothing is ignored.
//   - Create is idempotent by Spec.ID, tags the sandbox in the very call that
//     makes it, and leaves nothing behind when it fails.
//   - Output and exit status outlive the driver's process and the daemon's.
//   - Exec ids are chosen by the caller; an Exec that is repeated attaches to
//     the first one from offset 0 and starts nothing.
//   - Cancelling the context of Exec or Attach detaches; it ends nothing.
//   - Destroy is idempotent and works from every state.
//   - Errors carry a step.Kind. not_found means that the sandbox or exec does
//     not exist, and is said only when that is known.
package driver
