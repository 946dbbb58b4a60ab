package bootid

import (
	"regexp"
	"testing"
)

func TestRead(t *testing.T) {
	t.Parallel()
	first, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(first) {
		t.Errorf("id %q", first)
	}
	if again, err := Read(); err != nil || again != first {
		t.Errorf("then %q, %v", again, err)
	}
}
