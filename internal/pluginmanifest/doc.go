// Package pluginmanifest is the signed list of the driver plugins in a folder:
// which file is which driver, and that somebody with the key vouches for it.
// docs/adr/0021-plugin-manifest.md says why it is as it is.
package pluginmanifest
