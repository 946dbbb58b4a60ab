// Package wire holds the JSON bodies that the control API's handlers and its
// clients share, the worker protocol included. Field names are the protocol:
// a change here is a change for every client.
//
// Times are RFC 3339 in UTC, durations are integers with their unit in the
// name, ids are opaque strings.
package wire
