package render

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
)

// Table writes rows in aligned columns under a head.
func Table(w io.Writer, head []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			row[i] = Clean(cell)
		}
		fmt.Fprintln(tw, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return tw.Flush()
}

// Results writes what became of a run: a line for each step with its verdict
// and use, what it waits for, a line for each artifact, and the run's status.
func Results(w io.Writer, d wire.RunDetail) error {
	rows := make([][]string, 0, len(d.Steps))
	for _, s := range d.Steps {
		rows = append(rows, stepRow(s))
	}
	if err := Table(w, []string{"STEP", "STATUS", "VERDICT", "WALL", "CPU", "MEMORY PEAK", "PIDS PEAK", "OUTPUT"}, rows); err != nil {
		return err
	}
	for _, s := range d.Steps {
		if s.Fallback != "" {
			fmt.Fprintf(w, "%s: on %s, because: %s\n", Clean(s.Name), Clean(s.Driver), Clean(s.Fallback))
		}
		if len(s.Regions) > 1 {
			fmt.Fprintf(w, "%s: in %s, of %s\n", Clean(s.Name), Clean(s.Region), Clean(strings.Join(s.Regions, ", ")))
		}
		if s.WaitingFor != "" {
			fmt.Fprintf(w, "%s: waits for %s\n", Clean(s.Name), Clean(s.WaitingFor))
		}
		if s.Verdict != nil && s.Verdict.Message != "" && !s.Verdict.Success() {
			fmt.Fprintf(w, "%s: %s\n", Clean(s.Name), Clean(s.Verdict.Message))
		}
	}
	if len(d.Artifacts) > 0 {
		fmt.Fprintln(w)
		rows = rows[:0]
		for _, a := range d.Artifacts {
			rows = append(rows, []string{a.StepName + "/" + a.Name, Bytes(a.Size), a.SHA256})
		}
		if err := Table(w, []string{"ARTIFACT", "SIZE", "SHA256"}, rows); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	_, err := fmt.Fprintf(w, "run %s %s%s\n", d.Run.ID, d.Run.Status, took(d.Run))
	return err
}

func took(r wire.RunSummary) string {
	if r.EndedAt == nil {
		return ""
	}
	return " in " + Duration(r.EndedAt.Sub(r.CreatedAt))
}

func stepRow(s wire.StepDetail) []string {
	row := []string{s.Name, string(s.Status), "-", "-", "-", "-", "-", "-"}
	if s.Verdict == nil {
		return row
	}
	u := s.Verdict.Usage
	row[2] = s.Verdict.String()
	row[3] = Duration(time.Duration(u.WallMS) * time.Millisecond)
	row[4] = known(u.CPUUsec, Duration(time.Duration(u.CPUUsec)*time.Microsecond))
	row[5] = known(u.MemoryPeakBytes, Bytes(u.MemoryPeakBytes))
	row[6] = known(u.PidsPeak, fmt.Sprint(u.PidsPeak))
	row[7] = Bytes(s.Verdict.Output.TotalBytes)
	if s.Verdict.Output.Truncated {
		row[7] += " (kept " + Bytes(s.Verdict.Output.StoredBytes) + ")"
	}
	return row
}

// known hides a zero, which in a usage means that nobody measured it.
func known(v int64, text string) string {
	if v == 0 {
		return "-"
	}
	return text
}
