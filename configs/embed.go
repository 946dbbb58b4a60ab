// Package configs holds the configuration that NOFX ships: the manifests of
// its handlers, the sizes of steps and the presets of network lists, embedded
// in the API as its default.
package configs

import (
	"embed"
	"io/fs"
)

//go:embed handlers/*.yaml network/*.yaml profiles.yaml
var files embed.FS

// Handlers are the manifests, one *.yaml a tool.
func Handlers() (fs.FS, error) { return fs.Sub(files, "handlers") }

// NetworkPresets is the file of names for lists of whom a step may call.
func NetworkPresets() ([]byte, error) { return files.ReadFile("network/presets.yaml") }

// Profiles is the file of named sizes of steps.
func Profiles() ([]byte, error) { return files.ReadFile("profiles.yaml") }
