// Package hostile runs programs that try to get at what they may not, through
// the public interface, on every driver that is to hold them. A row that is
// "refused" has a positive control: the same attempt succeeds on the host, or
// the row proves nothing. At the end it prints a table: row, driver, what came
// of it, held or not.
//
//	make hostile
//	NOFX_HOSTILE=H35,H44 go test -v -run TestHostile ./test/hostile    these rows alone
package hostile
