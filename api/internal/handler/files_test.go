package handler

import (
	"strings"
	"testing"
)

// A file's path names a file below the workspace, and one that no other file of
// the step has.
func TestFilePaths(t *testing.T) {
	t.Parallel()
	file := func(path string) any { return map[string]any{"path": path, "content": "x"} }
	for name, c := range map[string]struct {
		list []any
		want string // of the error; "" = they are taken
	}{
		"plain":                {list: []any{file("a"), file("b/c"), file("..d"), file(`e\..\f`), file("g/./h")}},
		"a folder's":           {list: []any{file("x/")}, want: "[0]"},
		"a folder's, dotted":   {list: []any{file("a"), file("x/.")}, want: "[1]"},
		"twice":                {list: []any{file("a/b"), file("a/b")}, want: "two files"},
		"twice, written apart": {list: []any{file("a/b"), file("a/../a//b")}, want: "two files"},
		"a file and below it":  {list: []any{file("a/b"), file("a")}, want: "a folder for"},
		"below a file":         {list: []any{file("a"), file("a/b")}, want: "a folder for"},
		"outside":              {list: []any{file("../a")}, want: "[0]"},
		"too long a name":      {list: []any{file(strings.Repeat("n", 256))}, want: "[0]"},
		"the longest name":     {list: []any{file(strings.Repeat("n", 255))}},
		"too long":             {list: []any{file(strings.Repeat("n/", 2100) + "x")}, want: "[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, err := fileManifest{Input: "files"}.render(scope{inputs: map[string]any{"files": c.list}})
			if err == nil {
				err = apart(files)
			}
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want one that has %s", err, c.want)
			}
		})
	}
}
