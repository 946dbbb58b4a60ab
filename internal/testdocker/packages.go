package testdocker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ImportPackages makes an image of the installed Debian packages and all that
// they depend on, as they are on this machine.
func (e *Engine) ImportPackages(ctx context.Context, image string, packages ...string) error {
	files, err := installed(ctx, packages)
	if err != nil {
		return err
	}
	// The links at the top are no package's, and must be there before what
	// packages have below them.
	top := []string{"/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/bin", "/sbin", "/lib", "/lib64"}
	files = append(top, slices.DeleteFunc(files, func(f string) bool { return slices.Contains(top, f) })...)
	pack := exec.CommandContext(ctx, "tar", "--create", "--directory=/", "--no-recursion", "--ignore-failed-read", "--null", "--files-from=-")
	var list, complaint bytes.Buffer
	for _, f := range files {
		list.WriteString("." + f + "\x00")
	}
	pack.Stdin, pack.Stderr = &list, &complaint
	out, err := pack.StdoutPipe()
	if err != nil {
		return err
	}
	if err := pack.Start(); err != nil {
		return err
	}
	repo, tag, _ := strings.Cut(image, ":")
	err = e.Do(ctx, http.MethodPost, "/images/create?fromSrc=-&repo="+url.QueryEscape(repo)+"&tag="+tag, io.Reader(out), nil)
	if werr := pack.Wait(); err == nil && werr != nil {
		err = fmt.Errorf("tar: %w: %.1000s", werr, complaint.Bytes())
	}
	return err
}

// installed lists the files of packages and of what they depend on.
func installed(ctx context.Context, packages []string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "dpkg-query", "--show", "--showformat=${Package}\t${Provides}\t${Depends}, ${Pre-Depends}\n").Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-query: %w", err)
	}
	needs, provider := map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 3 {
			continue
		}
		needs[f[0]] = f[2]
		for _, p := range names(f[1]) {
			provider[p] = f[0]
		}
	}
	var all []string
	for todo := slices.Clone(packages); len(todo) > 0; {
		p := todo[0]
		todo = todo[1:]
		if _, there := needs[p]; !there {
			p = provider[p]
		}
		if p == "" || slices.Contains(all, p) {
			continue
		}
		all = append(all, p)
		todo = append(todo, names(needs[p])...)
	}
	for _, p := range packages {
		if !slices.Contains(all, p) {
			return nil, fmt.Errorf("testdocker: the package %s is not installed", p)
		}
	}
	out, err = exec.CommandContext(ctx, "dpkg-query", append([]string{"--listfiles"}, all...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-query: %w", err)
	}
	var files []string
	for line := range strings.Lines(string(out)) {
		f := strings.TrimSpace(line)
		if len(f) > 1 && f[0] == '/' && !strings.HasPrefix(f, "/usr/share/doc/") && !strings.HasPrefix(f, "/usr/share/man/") && !strings.HasPrefix(f, "/usr/share/locale/") {
			files = append(files, f)
		}
	}
	// The links to what is chosen among alternatives are in no package's list.
	chosen, err := filepath.Glob("/etc/alternatives/*")
	if err != nil {
		return nil, err
	}
	files = append(files, chosen...)
	programs, err := filepath.Glob("/usr/bin/*")
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		if to, err := os.Readlink(p); err == nil && slices.Contains(chosen, to) {
			files = append(files, p)
		}
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// names takes the packages out of a list of relations: of alternatives all.
func names(relations string) []string {
	var all []string
	for _, r := range strings.FieldsFunc(relations, func(c rune) bool { return c == ',' || c == '|' }) {
		if f := strings.Fields(r); len(f) > 0 {
			name, _, _ := strings.Cut(f[0], ":")
			all = append(all, name)
		}
	}
	return all
}
