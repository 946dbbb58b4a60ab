package suite

import (
	"bytes"

	"github.com/nofx-run/nofx/sdk/driver"
)

func apartCases() []testCase {
	return []testCase{
		{"WorkspacesAreApart", func(t T, fx *fixture) {
			const path, text = "/workspace/mine", "of-the-first"
			spec := fx.spec(t)
			given := spec.Host != nil && spec.Host.Workspace != "" // by the factory
			h, err := fx.d.Create(fx.ctx(t), spec)
			if err != nil {
				t.Fatalf("create: %v", err)
			}
			t.Cleanup(func() { fx.destroy(t, h) })
			if r := fx.run(t, h, fx.exec(fx.Programs.Append(path, text))); r.exit.Code != 0 {
				t.Fatalf("writing to /workspace: %+v, %q", *r.exit, r.stderr)
			}
			shows := func(in driver.Handle) bool {
				return bytes.Contains(fx.run(t, in, fx.exec(fx.Programs.Read(path))).stdout, []byte(text))
			}
			if shows(fx.create(t)) {
				t.Error("a sandbox shows what another one has in its workspace")
			}
			if given {
				return // and stays
			}
			fx.destroy(t, h)
			if h, err = fx.d.Create(fx.ctx(t), spec); err != nil {
				t.Fatalf("create under the id of a destroyed one: %v", err)
			}
			if shows(h) {
				t.Error("a new sandbox shows what the destroyed one of its id had in its workspace")
			}
		}},
	}
}
