// Package killmatrix kills each process of NOFX by SIGKILL at each place of a
// step's life, and has package invariant judge what came of it.
//
// Every round is a run of two steps that share a workspace, the second after the
// first; the first is idempotent, the second is not; both leave artifacts and
// have no network. In turns it is the one and the other that is hit. The place
// is hit exactly: binaries with failpoints (package internal/failpoint) hold the
// process that comes by, the process whose turn it is gets killed, and then the
// other goes on. Only then does the clock start.
//
//	make killmatrix            the whole of it, into docs/kill-matrix.md
//	go test ./test/killmatrix  a part, for CI
//
// NOFX_KILLMATRIX=all asks for the whole, NOFX_KILLMATRIX_ROUNDS says how often
// each cell, NOFX_KILLMATRIX_SYSTEMS how many systems work on it at a time,
// NOFX_KILLMATRIX_DIR where the histories go of rounds that broke an invariant.
package killmatrix
