package rootfs

import (
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/sdk/step"
)

// Where says which Debian to build, and from where.
type Where struct {
	Suite  string // "" = the host's own
	Mirror string // "" = that of the host's package sources
}

var suites = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)

// complete fills in what is left open from the host's configuration of apt,
// which is below root.
func (w Where) complete(root fs.FS) (Where, error) {
	if w.Suite == "" {
		w.Suite = osRelease(root, "VERSION_CODENAME")
	}
	if !suites.MatchString(w.Suite) {
		return w, step.Errorf(step.KindInvalid, "suite %.100q: name one like bookworm (--suite)", w.Suite)
	}
	if w.Mirror == "" {
		for _, s := range aptSources(root) {
			if slices.Contains(s.suites, w.Suite) && checkMirror(s.uri) == nil {
				w.Mirror = s.uri
				return w, nil
			}
		}
		return w, step.Errorf(step.KindInvalid, "no package source of this host has the suite %s; name a mirror (--mirror)", w.Suite)
	}
	return w, checkMirror(w.Mirror)
}

// checkMirror wants an address that can be shown: it is in the arguments of
// programs and in the record of the tree.
func checkMirror(mirror string) error {
	u, err := url.Parse(mirror)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "file" || u.Scheme != "file" && u.Host == "":
		return step.Errorf(step.KindInvalid, "the mirror is not an address like http://HOST/debian (--mirror)")
	case u.User != nil:
		return step.Errorf(step.KindInvalid, "the mirror's address has a name or password in it, which others on this host could see (--mirror)")
	}
	return nil
}

// aptSource is a source of binary packages.
type aptSource struct {
	uri    string
	suites []string
}

const maxSource = 1 << 20

// aptSources reads both kinds of files that apt has. A file or an entry that
// makes no sense is apt's to complain about.
func aptSources(root fs.FS) []aptSource {
	var all []aptSource
	files := []string{"etc/apt/sources.list"}
	entries, err := fs.ReadDir(root, "etc/apt/sources.list.d")
	if err == nil {
		for _, e := range entries {
			files = append(files, path.Join("etc/apt/sources.list.d", e.Name()))
		}
	}
	for _, f := range files {
		data, err := fs.ReadFile(root, f)
		if err != nil || len(data) > maxSource {
			continue
		}
		switch path.Ext(f) {
		case ".list":
			all = append(all, lines(string(data))...)
		case ".sources":
			all = append(all, stanzas(string(data))...)
		}
	}
	return all
}

var options = regexp.MustCompile(`^\s*\[[^]]*\]`)

// lines reads the one-line format: deb [options] URI SUITE COMPONENT...
func lines(text string) []aptSource {
	var all []aptSource
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		if f := strings.Fields(options.ReplaceAllString(rest, "")); len(f) >= 2 {
			all = append(all, aptSource{f[0], f[1:2]})
		}
	}
	return all
}

// stanzas reads the deb822 format.
func stanzas(text string) []aptSource {
	var all []aptSource
	for stanza := range strings.SplitSeq(strings.ReplaceAll(text, "\r", ""), "\n\n") {
		field, key := map[string]string{}, ""
		for line := range strings.Lines(stanza) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			if k, v, ok := strings.Cut(line, ":"); ok && line[0] != ' ' && line[0] != '\t' {
				key, line = strings.ToLower(k), v
			}
			field[key] += " " + strings.TrimSpace(line)
		}
		uris := strings.Fields(field["uris"])
		if slices.Contains(strings.Fields(field["types"]), "deb") && len(uris) > 0 && strings.TrimSpace(field["enabled"]) != "no" {
			all = append(all, aptSource{uris[0], strings.Fields(field["suites"])})
		}
	}
	return all
}

func osRelease(root fs.FS, key string) string {
	data, err := fs.ReadFile(root, "etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && k == key {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}
