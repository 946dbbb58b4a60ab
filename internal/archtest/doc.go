// Package archtest is the architecture as failing tests: who may import whom,
// a package comment in each package, no drawers. It has no code of its own.
package archtest
