package handler

import (
	"encoding/base64"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/sdk/wire"
)

// What Linux takes of a path, in bytes.
const (
	longestPath = 4095
	longestName = 255
)

// fileManifest is one entry of command.files: either {input: name} for a list
// of files, or one file with its path, mode and content.
type fileManifest struct {
	Input   string `yaml:"input"`
	Path    string `yaml:"path"`
	Mode    uint32 `yaml:"mode"`
	Content value  `yaml:"content"`
}

const defaultMode = 0o644

func (f fileManifest) render(s scope) ([]wire.CommandFile, error) {
	if f.Input == "" {
		text, _, err := f.Content.text(s)
		if err != nil {
			return nil, err
		}
		mode := f.Mode
		if mode == 0 {
			mode = defaultMode
		}
		return []wire.CommandFile{{Path: f.Path, Mode: mode, Data: []byte(text)}}, nil
	}
	list, _ := s.inputs[f.Input].([]any) // the schema says what it is; absent is empty
	out := make([]wire.CommandFile, 0, len(list))
	for i, item := range list {
		file, err := oneFile(item)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		out = append(out, file)
	}
	return out, nil
}

func oneFile(item any) (wire.CommandFile, error) {
	m, _ := item.(map[string]any)
	name, _ := m["path"].(string)
	full, ok := InWorkspace(name)
	if !ok || full == Workspace || path.IsAbs(name) {
		return wire.CommandFile{}, fmt.Errorf("path %q must be relative and stay in the workspace", clip(name))
	}
	if last := name[strings.LastIndexByte(name, '/')+1:]; last == "" || last == "." || last == ".." {
		return wire.CommandFile{}, fmt.Errorf("path %q is that of a folder: name the file in it, too", clip(name))
	}
	if len(full) > longestPath || slices.ContainsFunc(strings.Split(full, "/"), func(part string) bool { return len(part) > longestName }) {
		return wire.CommandFile{}, fmt.Errorf("path %q is too long: %d bytes at most, and %d in each of its names", clip(name), longestPath-len(Workspace)-1, longestName)
	}
	out := wire.CommandFile{Path: strings.TrimPrefix(full, Workspace+"/"), Mode: defaultMode}
	if mode, ok := m["mode"].(float64); ok {
		out.Mode = uint32(mode) & 0o777
	}
	text, plain := m["content"].(string)
	encoded, coded := m["content_base64"].(string)
	switch {
	case plain && coded:
		return out, fmt.Errorf("%q has both content and content_base64", clip(name))
	case coded:
		data, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return out, fmt.Errorf("%q: content_base64 is not base64", clip(name))
		}
		out.Data = data
	default:
		out.Data = []byte(text)
	}
	return out, nil
}

// apart refuses files of which one is in the place of another, or where the other
// needs a folder.
func apart(files []wire.CommandFile) error {
	placed := make(map[string]bool, len(files))
	for _, f := range files {
		if placed[f.Path] {
			return fmt.Errorf("two files are called %q", clip(f.Path))
		}
		placed[f.Path] = true
	}
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "." && dir != "/"; dir = path.Dir(dir) {
			if placed[dir] {
				return fmt.Errorf("%q is a file, and a folder for %q", clip(dir), clip(f.Path))
			}
		}
	}
	return nil
}
