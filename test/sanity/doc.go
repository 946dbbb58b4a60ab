// Package sanity grades every driver of NOFX and those of the examples with
// `nofx driver-sanity`, each as it is built and from outside.
package sanity
