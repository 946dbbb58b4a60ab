package queue

import (
	"encoding/hex"
	"fmt"
	"math"
	"path"
	"strings"

	"github.com/nofx-run/nofx/api/internal/retry"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Limits of a journal request beyond those of package wire.
const (
	maxBatches   = 1024
	maxArtifacts = 4096
	maxText      = 2000 // bytes of a verdict's message and the like
)

// checkJournal refuses requests that no state could make right.
func checkJournal(in wire.JournalRequest) error {
	if len(in.Batches) > maxBatches {
		return invalid("body.batches", "at most %d", maxBatches)
	}
	for i, b := range in.Batches {
		at := fmt.Sprintf("body.batches[%d]", i)
		for j, r := range b.Records {
			if err := checkRecord(fmt.Sprintf("%s.records[%d]", at, j), r); err != nil {
				return err
			}
			if j > 0 && r.N != b.Records[j-1].N+1 {
				return invalid(at+".records", "are not numbered one after the other")
			}
			if r.Type == wire.RecordVerdict && j != len(b.Records)-1 {
				return invalid(at+".records", "a record follows the verdict")
			}
		}
	}
	return nil
}

func invalid(at, format string, args ...any) error {
	m := fmt.Sprintf(format, args...)
	return &step.Error{Kind: step.KindInvalid, Message: at + ": " + m, Fields: []step.FieldError{{Location: at, Message: m}}}
}

func checkRecord(at string, r wire.Record) error {
	bodies := 0
	for _, set := range []bool{r.Started != nil, r.Output != nil, r.Usage != nil, r.Event != nil, r.Verdict != nil} {
		if set {
			bodies++
		}
	}
	var right bool
	switch r.Type {
	case wire.RecordStarted:
		right = r.Started != nil
	case wire.RecordOutput:
		right = r.Output != nil
	case wire.RecordUsage:
		right = r.Usage != nil
	case wire.RecordEvent:
		right = r.Event != nil
	case wire.RecordVerdict:
		right = r.Verdict != nil
	}
	switch {
	case r.N < 1:
		return invalid(at+".n", "counts from 1")
	case !right || bodies != 1:
		return invalid(at, "exactly the body of its type is needed")
	case r.Output != nil && (r.Output.Stream != wire.Stdout && r.Output.Stream != wire.Stderr || r.Output.Offset < 0 || len(r.Output.Data) > wire.MaxOutputRecord):
		return invalid(at+".output", "needs a stream, an offset and at most %d bytes", wire.MaxOutputRecord)
	case r.Started != nil && (!plain(r.Started.Driver) || !plain(r.Started.DriverVersion) || !plain(r.Started.SandboxID)):
		return invalid(at+".started", "has a text that is too long or holds a NUL")
	case r.Event != nil && (!plain(r.Event.Name) || r.Event.Name == ""):
		return invalid(at+".event.name", "is missing, too long or holds a NUL")
	case r.Verdict != nil:
		return checkVerdict(at+".verdict", *r.Verdict)
	}
	return nil
}

func checkVerdict(at string, r wire.VerdictRecord) error {
	v := r.Verdict
	switch {
	case !v.Cause.Valid():
		return invalid(at+".verdict.cause", "is not a known cause")
	case (v.ExitCode != nil) != (v.Cause == step.CauseExit):
		return invalid(at+".verdict.exit_code", "goes with the cause exit and with no other")
	case (v.Signal != "") != (v.Cause == step.CauseSignal) || !plain(v.Signal):
		return invalid(at+".verdict.signal", "goes with the cause signal and with no other")
	case v.Attested != step.AttestedKernel && v.Attested != step.AttestedVendor && v.Attested != step.AttestedGuest:
		return invalid(at+".verdict.attested", "must be kernel, vendor or guest")
	case v.RetryAfterMS < 0 || v.RetryAfterMS > retry.Longest.Milliseconds() || v.RetryAfterMS > 0 && v.Cause != step.CauseDriverError:
		return invalid(at+".verdict.retry_after_ms", "goes with the cause driver_error, at most %d", retry.Longest.Milliseconds())
	case v.ErrorKind != "" && (!v.Cause.Infrastructure() || !v.ErrorKind.Valid()):
		return invalid(at+".verdict.error_kind", "must be a known kind, with the cause driver_error or lost")
	case !plain(v.Message):
		return invalid(at+".verdict.message", "is too long or holds a NUL")
	case len(r.Stdout) > wire.MaxVerdictStream || len(r.Stderr) > wire.MaxVerdictStream:
		return invalid(at, "at most %d bytes of a stream", wire.MaxVerdictStream)
	case len(r.Artifacts) > maxArtifacts:
		return invalid(at+".artifacts", "at most %d", maxArtifacts)
	}
	if err := checkLayer(at+".layer", r); err != nil {
		return err
	}
	seen := make(map[string]bool, len(r.Artifacts))
	for i, f := range r.Artifacts {
		if !isSum(f.SHA256) || f.Size < 0 || seen[f.Name] || !relative(f.Name) {
			return invalid(fmt.Sprintf("%s.artifacts[%d]", at, i), "needs a relative name of its own, a sha256 and a size")
		}
		seen[f.Name] = true
	}
	return nil
}

func checkLayer(at string, r wire.VerdictRecord) error {
	l := r.Layer
	switch {
	case l == nil:
	case !r.Verdict.Success():
		return invalid(at, "goes with a step that has succeeded")
	case l.Seq < 0 || l.Seq > math.MaxInt32:
		return invalid(at+".seq", "must be 0 to %d", math.MaxInt32)
	case l.SHA256 == "" && *l != (wire.Layer{Seq: l.Seq}):
		return invalid(at, "needs a sha256, or nothing but the number of the layer since which nothing has changed")
	case l.SHA256 != "" && (!isSum(l.SHA256) || l.Seq < 1 || l.Size < 1 || l.Size > wire.MaxArtifactBytes || l.Bytes < 0 || l.Bytes > wire.MaxArtifactBytes):
		return invalid(at, "needs a number, a sha256, a size of 1 to %[1]d and the bytes of its files, at most %[1]d", int64(wire.MaxArtifactBytes))
	}
	return nil
}

// isSum reports whether s is a sha256 in lower case hex.
func isSum(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && strings.ToLower(s) == s
}

// relative reports whether p is a clean relative path that goes nowhere up.
func relative(p string) bool {
	return p != "" && p != "." && plain(p) && !path.IsAbs(p) && path.Clean(p) == p && p != ".." && !strings.HasPrefix(p, "../")
}

func plain(s string) bool { return len(s) <= maxText && !strings.ContainsRune(s, 0) }
