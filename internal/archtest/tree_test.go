package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Each package says what it is, once, and in more than its name.
func TestPackagesAreDocumented(t *testing.T) {
	t.Parallel()
	for _, p := range load(t) {
		if len(p.doc) < 20 && len(p.imports)+len(p.files) > 0 && !onlyTests(p) {
			t.Errorf("%s has no package comment", p.path)
		}
	}
}

func onlyTests(p pkg) bool {
	return !slices.ContainsFunc(p.files, func(f string) bool { return !strings.HasSuffix(f, "_test.go") })
}

// A folder is named after what is in it.
func TestNoDrawers(t *testing.T) {
	t.Parallel()
	drawers := []string{"util", "utils", "common", "helper", "helpers", "models", "types", "misc", "shared", "lib", "base", "pkg"}
	walk(t, func(path string, d fs.DirEntry) {
		if d.IsDir() && slices.Contains(drawers, d.Name()) {
			t.Errorf("%s is a drawer: name it after what is in it", path)
		}
	})
}

// One idea a file. Generated code is exempt.
func TestFilesAreShort(t *testing.T) {
	t.Parallel()
	const most = 500
	walk(t, func(path string, d fs.DirEntry) {
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return
		}
		body, err := os.ReadFile(filepath.Join("../..", path))
		if err != nil {
			t.Error(err)
			return
		}
		text := string(body)
		if n := strings.Count(text, "\n"); n > most && !generated(text) {
			t.Errorf("%s has %d lines, more than %d: two ideas may share it", path, n, most)
		}
	})
}

func generated(text string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "// Code generated ") && strings.HasSuffix(strings.TrimSpace(line), " DO NOT EDIT.") {
			return true
		}
		if strings.HasPrefix(line, "package ") {
			return false
		}
	}
	return false
}

// walk visits the tree, without what git does not keep.
func walk(t *testing.T, visit func(path string, d fs.DirEntry)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("../.."), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path == "bin" || (strings.HasPrefix(d.Name(), ".") && path != "." && d.Name() != ".ci") || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		visit(path, d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
