package queue

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHomes(t *testing.T) {
	t.Parallel()
	have, err := offered([]byte(`[{"name":"local","healthy":true},{"name":"far","healthy":true,"region":"us-1"},{"name":"sick","region":"us-1"}]`), "eu-1")
	if err != nil {
		t.Fatal(err)
	}
	var h homes
	ask := func() []string { return h.of("w", []string{"far", "local", "sick", "new"}) }
	if diff := cmp.Diff([]string{"", "", "", ""}, ask()); diff != "" {
		t.Errorf("nothing said yet: %s", diff)
	}
	h.note("w", have)
	if diff := cmp.Diff([]string{"us-1", "eu-1", "", ""}, ask()); diff != "" {
		t.Error(diff)
	}
	for i := range maxHomes {
		h.note(fmt.Sprint(i), have)
	}
	if n := len(h.at); n > maxHomes {
		t.Errorf("it remembers %d workers", n)
	}
	for i := len(h.at); i < maxHomes; i++ {
		h.note(fmt.Sprint("more-", i), have)
	}
	if h.note(fmt.Sprint(maxHomes-1), have); len(h.at) != maxHomes {
		t.Errorf("a known one made it forget: %d are left", len(h.at))
	}
}
