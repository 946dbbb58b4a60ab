package pluginmanifest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Interpreted reports whether a plugin's file is a script. What it does is then
// in other files as well.
func Interpreted(file io.ReaderAt) bool {
	head := make([]byte, 2)
	_, err := file.ReadAt(head, 0)
	return err == nil && string(head) == "#!"
}

// CheckBeside is CheckFolder for the files of an interpreted plugin, which lie
// elsewhere when it is a link.
func CheckBeside(plugin string) error {
	own, err := filepath.EvalSymlinks(plugin)
	if err != nil {
		return err
	}
	plugins, err := filepath.EvalSymlinks(filepath.Dir(plugin))
	if err != nil || filepath.Dir(own) == plugins {
		return err // a folder of plugins is looked at by itself
	}
	c := folderCheck{of: filepath.Dir(own), seen: map[string]bool{}}
	return c.tree(filepath.Dir(own))
}

// SumFiles is a hash over the names and contents of the files of an interpreted
// plugin: all that lie in its folder and below, and what links there lead to. Its
// own file is not among them; nor are other plugins and the manifest, if that
// folder is the one of the plugins.
func SumFiles(plugin string) (string, error) {
	own, err := filepath.EvalSymlinks(plugin)
	if err != nil {
		return "", err
	}
	plugins, err := filepath.EvalSymlinks(filepath.Dir(plugin))
	if err != nil {
		return "", err
	}
	s := filesSum{own: own, plugins: plugins, hash: sha256.New(), seen: map[string]bool{}}
	if err := s.tree(filepath.Dir(own), "."); err != nil {
		return "", err
	}
	return hex.EncodeToString(s.hash.Sum(nil)), nil
}

// filesSum is one SumFiles under way.
type filesSum struct {
	own, plugins string
	hash         hash.Hash
	seen         map[string]bool // folders that links lead to
	entries      int
}

// tree takes the files of a folder, by names below as.
func (s *filesSum) tree(root, as string) error {
	if s.seen[root] {
		return nil
	}
	s.seen[root] = true
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if s.entries++; s.entries > maxEntries {
			return fmt.Errorf("%s: there are more than %d files beside it", s.own, maxEntries)
		}
		below, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		name := filepath.Join(as, below)
		switch {
		case path == s.own || filepath.Dir(path) == s.plugins && vouched(d.Name()) || d.IsDir():
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			return s.link(path, name)
		case d.Type().IsRegular():
			return s.file(path, name)
		}
		return fmt.Errorf("%s: %s beside it is no file", s.own, name)
	})
}

// link takes what a link leads to, if anything.
func (s *filesSum) link(path, name string) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return s.tree(target, name)
	case info.Mode().IsRegular():
		return s.file(target, name)
	}
	return fmt.Errorf("%s: %s beside it leads to no file", s.own, name)
}

func (s *filesSum) file(path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.hash, "%q %x\n", name, h.Sum(nil))
	return err
}

// vouched reports whether a name in a folder of plugins is that of a plugin, which
// has an entry of its own, or of the manifest, which has its signature.
func vouched(name string) bool {
	driver, ok := strings.CutPrefix(name, Prefix)
	return ok && ValidName(driver) || name == Name || name == SignatureName
}
