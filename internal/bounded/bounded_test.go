package bounded

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	t.Parallel()
	for text, refused := range map[string]bool{"": false, "abc": false, "abcd": true} {
		got, err := Read(strings.NewReader(text), 3)
		if (err != nil) != refused || !refused && string(got) != text || refused && (got != nil || !strings.Contains(err.Error(), "more than 3 bytes")) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err = File(f, 3)
		if (err != nil) != refused || !refused && string(got) != text || refused && err.Error() != path+" has 4 bytes, and may have 3" {
			t.Errorf("a file of %q: %q, %v", text, got, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// What tells no size.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("abcd"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := File(r, 3); err == nil || !strings.Contains(err.Error(), "has more than 3 bytes") {
		t.Errorf("a pipe: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
