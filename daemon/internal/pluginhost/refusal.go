package pluginhost

import (
	"errors"

	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/step"
)

// Reasons for which a plugin is refused, as metrics and the log name them.
const (
	reasonUnsigned  = "unsigned"  // there is no signed manifest
	reasonSignature = "signature" // the manifest's is not good
	reasonManifest  = "manifest"  // it cannot be read
	reasonEntry     = "not_in_manifest"
	reasonSwapped   = "swapped"  // another file than the manifest's
	reasonWritable  = "writable" // by others than root
	reasonOwner     = "owner"    // somebody else's
	reasonIdentity  = "identity" // it says that it is another driver, or none
	reasonSchema    = "schema"
	reasonConfig    = "configuration"
	reasonProtocol  = "protocol" // no version in common
)

// refusal is a fault that another try does not mend.
type refusal struct {
	reason string
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(reason, format string, args ...any) error {
	return &refusal{reason: reason, err: step.Errorf(step.KindInvalid, format, args...)}
}

// refusedFor gives the reason of a refusal; false for any other error.
func refusedFor(err error) (string, bool) {
	var r *refusal
	if errors.As(err, &r) {
		return r.reason, true
	}
	return "", false
}

// manifestRefusal is why the manifest does not vouch for a file.
func manifestRefusal(name string, err error) error {
	reason := reasonManifest
	switch {
	case errors.Is(err, pluginmanifest.ErrNoManifest):
		reason = reasonUnsigned
	case errors.Is(err, pluginmanifest.ErrSignature):
		reason = reasonSignature
	case errors.Is(err, pluginmanifest.ErrMissingEntry):
		reason = reasonEntry
	case errors.Is(err, pluginmanifest.ErrChanged), errors.Is(err, pluginmanifest.ErrFiles):
		reason = reasonSwapped
	}
	return refuse(reason, "%s: %w", pluginmanifest.Prefix+name, err)
}

// ownerRefusal is why a file or folder is not to be trusted.
func ownerRefusal(err error) error {
	var o *pluginmanifest.OwnershipError
	switch {
	case !errors.As(err, &o):
		return err
	case o.Writable:
		return refuse(reasonWritable, "%w", err)
	}
	return refuse(reasonOwner, "%w", err)
}
