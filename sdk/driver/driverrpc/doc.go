// Package driverrpc carries a driver.Driver over gRPC in a HashiCorp
// go-plugin. A driver's main calls Serve; the daemon's plugin host dispenses
// a Client. Both sides speak driver.Driver; protobuf stays inside.
//
// # What both sides do
//
//   - Messages are at most MaxMessage bytes, output and tar bytes travel in
//     chunks of at most MaxChunk. A slow reader slows the writer down: nothing
//     is buffered without bound.
//   - Each call carries its caller's deadline. The server bounds the calls that
//     come without one.
//   - Errors keep their step.Kind, message, fields and retry hint (errors.go).
//   - The server checks Spec, ExecSpec and handles before the driver sees them;
//     the client checks that an exec's output is contiguous and ends in an Exit,
//     so that a stream which broke off is never taken for a step that ended.
package driverrpc
