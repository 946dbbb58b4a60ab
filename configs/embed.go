// Package configs holds the configuration that NOFX ships: the manifests of
// its handlers, embedded in the API as its default.
package configs

import (
	"embed"
	"io/fs"
)

//go:embed handlers/*.yaml
var files embed.FS

// Handlers are the manifests, one *.yaml a tool.
func Handlers() (fs.FS, error) { return fs.Sub(files, "handlers") }
