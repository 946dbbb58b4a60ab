package main

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (f *fakeAPI) artifact(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	var body []byte
	for _, run := range f.runs {
		if found, ok := run.artifacts[r.PathValue("path")]; ok {
			body = found
		}
	}
	f.mu.Unlock()
	switch {
	case strings.HasSuffix(r.PathValue("path"), "/endless"): // only its beginning ever comes
		_, _ = w.Write(body[:1])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // so that it never looks whole
	case body != nil:
		_, _ = w.Write(body)
	default:
		refuse(w, step.Errorf(step.KindNotFound, "no such artifact"))
	}
}

func (r *fakeRun) keep(s *wire.StepDetail, name, text string) {
	sum := sha256.Sum256([]byte(text))
	path := "runs/" + r.detail.Run.ID + "/steps/" + s.ID + "/" + name
	r.artifacts[path] = []byte(text)
	if strings.HasPrefix(name, "damaged") {
		r.artifacts[path] = []byte(strings.ToUpper(text))
	}
	r.detail.Artifacts = append(r.detail.Artifacts, wire.ArtifactInfo{
		Path: path, RunID: r.detail.Run.ID, StepID: s.ID, StepName: s.Name, Name: name,
		SHA256: hex.EncodeToString(sum[:]), Size: int64(len(text)), CreatedAt: time.Now(),
	})
}
