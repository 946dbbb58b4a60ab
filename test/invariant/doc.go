// Package invariant judges, offline, whether NOFX kept its promises: a suite
// writes what it saw into a History, and Check says which invariant was broken
// by what. The checker knows nothing of how a suite disturbed the system.
//
//	I1 every accepted step reached a terminal state
//	I2 exactly one terminal state for each attempt and each generation, and it never changes
//	I3 the effects of two attempts never overlap, and nothing of an old epoch took effect
//	I4 nothing is left on the host after the last sweep
//	I5 an attempt's journal is complete, a run's events are 1..n, for every reader
//	I6 the DLQ holds each exhausted step exactly once
//	I7 each audited action has its row, once
//	I8 no slot, lease or quota is held after the end
//	I9 the same idempotency key is one run and one answer
//
// I7 looks at rows alone: the audit log has no hash chain yet that could be
// verified.
//
// An invariant for which the history holds no evidence counts as broken: a
// suite that recorded nothing has proven nothing.
//
// # What counts as evidence of an effect
//
// A step's output does not: that of an attempt which was fenced or lost is
// discarded, and so is that of a sandbox that died before its output was read,
// so that the second of two overlapping attempts would look alone. What the
// verdict says does not either, since it is what is to be checked.
//
// The step of a suite therefore appends lines to a file in its workspace, each
// by one write with O_APPEND: when it begins, in short beats, and when it ends
// (Script has it). The recorder on the host keeps the file open from its first
// moment on, so that it can be read when workspace, sandbox and journal are
// gone (Recorder). A line that was written stays in the file whatever is killed
// later, daemon and supervisor included; only a crash of the kernel takes it,
// and with it the recorder. Each execution names itself by a random id, so that
// a command that is run twice under one attempt shows as two executions. Times
// are of CLOCK_BOOTTIME (/proc/uptime, in hundredths of a second), the one clock
// that all sandboxes and the recorder share and that no step can set.
//
// A killed execution has no last line, so that its end is not known. What is
// certain is that it was alive from its first to its last line. Two executions
// overlap if one has a line between the first and the last of the other: there
// are no false alarms. An overlap that is shorter than a beat, at the end of the
// earlier execution, is not seen.
package invariant
