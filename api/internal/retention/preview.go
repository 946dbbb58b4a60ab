package retention

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// previewMost is what is counted of one tenant.
const previewMost = 100_000

// Preview is what Tick would remove now if it had the time.
type Preview struct {
	Runs      []pgdb.PreviewRunsRow
	Artifacts []pgdb.PreviewArtifactsRow
}

// Preview looks and removes nothing.
func (s *Service) Preview(ctx context.Context) (p Preview, err error) {
	err = s.DB.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
		if p.Runs, err = db.PreviewRuns(ctx, seconds(s.Keep.Runs), previewMost); err != nil {
			return err
		}
		p.Artifacts, err = db.PreviewArtifacts(ctx, seconds(s.Keep.Artifacts), previewMost)
		return err
	})
	return p, err
}

// Print writes it as a table.
func (p Preview) Print(out io.Writer) error {
	if len(p.Runs) == 0 && len(p.Artifacts) == 0 {
		_, err := fmt.Fprintln(out, "nothing is due")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tKEPT FOR\tDUE")
	for _, r := range p.Runs {
		fmt.Fprintf(w, "%s\truns %s\t%s with %d steps, the oldest of %s", r.TenantID, days(r.KeepSeconds), most(r.Runs, "run"), r.Steps, r.Oldest.UTC().Format(time.DateOnly))
		if r.Held > 0 {
			fmt.Fprintf(w, "; kept for an open entry in the DLQ: %s", most(r.Held, "run"))
		}
		fmt.Fprintln(w)
	}
	for _, a := range p.Artifacts {
		fmt.Fprintf(w, "%s\tartifacts %s\t%s with %d bytes\n", a.TenantID, days(a.KeepSeconds), most(a.Artifacts, "artifact"), a.Bytes)
	}
	return w.Flush()
}

func days(seconds int64) string {
	const day = 24 * 60 * 60
	if seconds%day == 0 {
		return fmt.Sprintf("%dd", seconds/day)
	}
	return (time.Duration(seconds) * time.Second).String()
}

// most says a number that was counted to a bound.
func most(n int64, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case n >= previewMost:
		return fmt.Sprintf("%d or more %ss", n, what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}
