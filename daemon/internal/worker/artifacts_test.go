package worker

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/wire"
)

// The artifacts of one step have room for so many bytes together: what is
// beyond is named in the timeline, and neither fails the step nor is taken.
func TestArtifactsTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.room = 10 })
	file := func(name, text string) wire.CommandFile { return wire.CommandFile{Path: name, Data: []byte(text)} }
	l := lease("a", "true")
	l.Command.Files = []wire.CommandFile{file("a", "123456"), file("d/b", "1234"), file("d/c", ""), file("big", "1"), file("none", "")}
	l.Artifacts = []string{"a", "d", "a", "big", "none"}
	r.api.submit(l)
	a := r.api.verdict("a")
	got := map[string]int64{}
	for _, f := range a.verdict.Artifacts {
		got[f.Name] = f.Size
	}
	if diff := cmp.Diff(map[string]int64{"a": 6, "d/b": 4, "d/c": 0, "none": 0}, got); diff != "" || !a.verdict.Verdict.Success() {
		t.Errorf("%s: %s", a.verdict.Verdict, diff)
	}
	var events []wire.EventRecord
	for _, rec := range a.records {
		if rec.Event != nil {
			events = append(events, *rec.Event)
		}
	}
	want := []wire.EventRecord{{Name: artifactLeftOut, Payload: map[string]any{"path": "big", "files": 1.0, "names": []any{"big"}}}}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Error(diff)
	}

	// A folder of which a part fits, and one file that alone is too large.
	l = lease("b", "true")
	l.Command.Files = []wire.CommandFile{file("x", "123456"), file("d/b", "1234567"), file("huge", "12345678901")}
	l.Artifacts = []string{"huge", "x", "d"}
	r.api.submit(l)
	b := r.api.verdict("b")
	events = nil
	for _, rec := range b.records {
		if rec.Event != nil {
			events = append(events, *rec.Event)
		}
	}
	want = []wire.EventRecord{
		{Name: artifactTooLarge, Payload: map[string]any{"path": "huge"}},
		{Name: artifactLeftOut, Payload: map[string]any{"path": "d", "room": 4.0}},
	}
	if diff := cmp.Diff(want, events); diff != "" || len(b.verdict.Artifacts) != 1 || b.verdict.Artifacts[0].Name != "x" || !b.verdict.Verdict.Success() {
		t.Errorf("%+v: %s", b.verdict, diff)
	}
	r.left()
}
