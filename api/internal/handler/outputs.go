package handler

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/nofx-run/nofx/sdk/wire"
)

// Outputs reads a step's outputs from the end of its attempt. reads is the
// handler's Reads, shown the command for people. Output that is not what the
// handler promises is shown as a shell's.
func Outputs(reads, shown string, v wire.VerdictRecord) json.RawMessage {
	if reads == ReadStdoutJSON && !v.StdoutTruncated && v.Verdict.Success() {
		var out bytes.Buffer
		if json.Compact(&out, v.Stdout) == nil {
			return out.Bytes()
		}
	}
	out := struct {
		Command         string `json:"command"`
		Stdout          string `json:"stdout"`
		Stderr          string `json:"stderr"`
		ExitCode        *int   `json:"exitCode"`
		Success         bool   `json:"success"`
		StdoutTruncated bool   `json:"stdoutTruncated,omitempty"`
		StderrTruncated bool   `json:"stderrTruncated,omitempty"`
	}{
		Command: shown, Stdout: printable(v.Stdout), Stderr: printable(v.Stderr),
		ExitCode: v.Verdict.ExitCode, Success: v.Verdict.Success(),
		StdoutTruncated: v.StdoutTruncated, StderrTruncated: v.StderrTruncated,
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return nil // plain strings and numbers always marshal
	}
	return raw
}

// printable keeps text that JSON can carry.
func printable(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }
