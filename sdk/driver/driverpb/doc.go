// Package driverpb is the wire form of the driver protocol, generated from
// driver.proto. Drivers in Go never see it: package driverrpc translates.
package driverpb

//go:generate sh -c "cd ../../.. && go tool -modfile=tools/buf/go.mod buf generate"
