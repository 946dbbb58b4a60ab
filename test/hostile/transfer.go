package hostile

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/nofx-run/nofx/sdk/step"
)

// transfer: what goes into a workspace and comes out of it stays in its bounds.
func transfer() []Row {
	out := []string{"out"}
	return []Row{
		{ID: "H11", Name: "an artifact of a terabyte", Short: true, Script: `mkdir out; truncate -s 1099511627776 out/big && echo small >out/small`,
			Artifacts: out, Told: "artifact out: ", Look: kept(0, 1, 1<<20)},
		{ID: "H11", Name: "twenty thousand artifacts", Flags: []string{"--timeout", "120s"}, Script: `mkdir out; cd out; seq 1 20000 | xargs touch; exit 0`,
			Artifacts: out, Told: "artifact out: ", Look: kept(1, 4096, 1<<20)},
		{ID: "H54", Name: "files with odd names", Short: true, Play: oddNames},
		{ID: "H55", Name: "links where files are put", Short: true, Play: plantedLinks},
		{ID: "H57", Name: "artifacts that are no files", Short: true, Artifacts: out, Script: `
			mkdir out; echo fine >out/fine; ln -s /etc/passwd out/passwd; ln -s / out/root; ln -s /proc/self/mem out/mem; ln -s /proc/self/environ out/environ
			mkfifo out/pipe; mknod out/device c 1 5 2>/dev/null; ln out/fine out/twice; ln -s ../../../../../../../../etc/shadow out/shadow
			(while :; do echo more >>out/growing; done) & sleep 0.3; exit 0`,
			Look: kept(1, 3, 1<<30)}, // fine, its second name, and what grew
		{ID: "H59", Name: "artifacts with rights", Artifacts: out, Script: `mkdir out; echo x >out/suid; chmod 6777 out/suid; echo x >out/sticky; chmod 1777 out/sticky; exit 0`,
			Look: func(_, dir string) string { return kept(2, 2, 10)("", dir) + noRights(dir) }},
		{ID: "H66", Name: "artifacts with odd names", Artifacts: out, Script: `
			mkdir out; cd out; echo x >"$(printf '%0255d' 7)"; echo x >"$(printf 'a\nb')"; echo x >"$(printf '\033[2J')"; echo x >"$(printf '\377\376')"
			echo x >'a"b<script>'; echo x >'..a'; echo x >'-rf'; echo x >fine; exit 0`, Look: kept(1, 8, 100)},
		{ID: "H66", Name: "a result of megabytes", Play: largeResult},
	}
}

// kept judges what came of artifacts: files alone, so many of them, of so many
// bytes together, and none with a name that is a way out.
func kept(least, most int, bytes int64) func(string, string) string {
	return func(_, dir string) string {
		var n int
		var sum int64
		var wrong []string
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			n, sum = n+1, sum+info.Size()
			if !e.Type().IsRegular() || !utf8.ValidString(e.Name()) {
				wrong = append(wrong, fmt.Sprintf("%q is a %v", e.Name(), e.Type()))
			}
			return nil
		})
		if err != nil {
			return err.Error()
		}
		if n < least || n > most || sum > bytes {
			wrong = append(wrong, fmt.Sprintf("%d files of %d bytes", n, sum))
		}
		return strings.Join(wrong, ", ")
	}
}

// noRights finds what has more than the rights of a plain file.
func noRights(dir string) string {
	found := ""
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, _ error) error {
		if info, err := os.Lstat(path); err == nil && !e.IsDir() && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
			found += " " + info.Mode().String()
		}
		return nil
	})
	return found
}

// oddNames asks for files outside of the workspace: the plan is refused, and
// names the field. The control is a name that is as odd, and inside.
func oddNames(p *play) (seen, wrong string) {
	for _, name := range []string{"../x", "/etc/x", "a/../../x", "..", ".", "", "x\x00y", "x/", "x/.", strings.Repeat("n/", 2100) + "x", strings.Repeat("n", 300)} {
		if wrong := p.refusedFile(name); wrong != "" {
			return "taken", wrong
		}
	}
	d, text, err := p.ran(p.step("a", `cat '..x' 'a\..\b'`, []map[string]any{
		{"path": "..x", "content_base64": []byte("inside ")}, {"path": `a\..\b`, "content_base64": []byte("too\n")},
	}))
	if err != nil || text != "inside too\n" {
		return "refused", fmt.Sprintf("the control: %v, printed %q%s", err, text, verdicts(d))
	}
	return "refused", ""
}

// plantedLinks has one step leave links where the next one's files are to go.
// Whatever comes of that one, nothing arrives where they lead.
func plantedLinks(p *play) (seen, wrong string) {
	file := func(path string) []map[string]any {
		return []map[string]any{{"path": path, "content_base64": []byte("planted")}}
	}
	plant := fmt.Sprintf(`ln -s %s file; ln -s %s dir; mkdir -p deep/er; ln -s %[2]s deep/er/est; ln -s dir chain; exit 0`, p.canary.file, p.canary.dir)
	id, err := p.submit(p.step("plant", plant, nil),
		p.step("file", "exit 0", file("file"), "plant"), p.step("dir", "exit 0", file("dir/x"), "plant"),
		p.step("deep", "exit 0", file("deep/er/est/x"), "plant"), p.step("chain", "exit 0", file("chain/x"), "plant"))
	if err != nil {
		return "", err.Error()
	}
	d := p.wait(id)
	if v := p.s.Step(d, "plant").Verdict; v == nil || !v.Success() {
		return "", "nothing was planted:" + verdicts(d)
	}
	return string(d.Run.Status), p.canary.touched()
}

// largeResult prints a document of ten megabytes, which is what outputs are read
// from: the run's own document stays small, and can be read.
func largeResult(p *play) (seen, wrong string) {
	d, _, err := p.ran(p.step("a", `printf '{"a":"'; head -c 10000000 /dev/zero | tr '\0' x; printf '"}'`, nil))
	if err != nil {
		return "", err.Error()
	}
	raw, err := json.Marshal(d)
	if err != nil || len(raw) > 1<<20 || d.Run.Status != step.RunSucceeded {
		return string(d.Run.Status), fmt.Sprintf("a document of %d bytes, %v%s", len(raw), err, verdicts(d))
	}
	return string(d.Run.Status), ""
}
