// Package buildinfo says which version of NOFX a binary is.
package buildinfo

import "runtime/debug"

// version is set by the linker: -ldflags "-X …/buildinfo.version=v1.2.3".
var version string

// Version is the version that the Makefile stamped, else the module's own
// version, else "dev". It is never empty.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
