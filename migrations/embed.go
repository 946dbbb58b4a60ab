// Package migrations holds the database schema as numbered SQL files in
// goose's format, embedded in the programs that apply them. A file that was
// released is never changed; a change of the schema is a new file.
package migrations

import "embed"

// Files are the migrations, NNNNN_name.sql.
//
//go:embed *.sql
var Files embed.FS
