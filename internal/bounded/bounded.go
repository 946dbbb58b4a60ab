// Package bounded reads what may have only so many bytes, and refuses what has
// more: half of a file is another file.
package bounded

import (
	"fmt"
	"io"
	"os"
)

// Read reads r to its end, which must come within so many bytes.
func Read(r io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(data)) > most {
		return nil, fmt.Errorf("has more than %d bytes", most)
	}
	return data, err
}

// File is Read for an open file; its error names the file, and its size where
// there is one.
func File(f *os.File, most int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Size() > most {
		return nil, fmt.Errorf("%s has %d bytes, and may have %d", f.Name(), info.Size(), most)
	}
	data, err := Read(f, most)
	if err != nil {
		err = fmt.Errorf("%s: %w", f.Name(), err)
	}
	return data, err
}
