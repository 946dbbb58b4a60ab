package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (a *app) alertsCommand() *cobra.Command {
	return group("alerts", "rules about what operators must know, and who is told", a.alertsListCommand(), a.alertsTestCommand(), a.alertsSilenceCommand())
}

func (a *app) alertsListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the rules, their newest episodes, and the receivers",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			list, err := client.Alerts(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error { return alertTables(w, list, time.Now()) })
		}),
	}
}

func alertTables(w io.Writer, list wire.AlertList, now time.Time) error {
	rules := [][]string{}
	for _, r := range list.Rules {
		value := "-"
		if r.Value != nil {
			value = plainNumber(*r.Value)
		}
		rules = append(rules, []string{r.Name, r.Metric, value, plainNumber(r.Above), plainNumber(r.Below), render.Duration(time.Duration(r.ForSeconds) * time.Second), ruleState(r, now)})
	}
	if err := render.Table(w, []string{"RULE", "METRIC", "VALUE", "ABOVE", "BELOW", "FOR", "STATE"}, rules); err != nil {
		return err
	}
	alerts := [][]string{}
	for _, x := range list.Alerts {
		over := "-"
		if x.ResolvedAt != nil {
			over = x.ResolvedAt.Format(time.RFC3339)
		}
		alerts = append(alerts, []string{x.OpenedAt.Format(time.RFC3339), over, x.Rule, plainNumber(x.Value), plainNumber(x.Peak), x.ID})
	}
	receivers := [][]string{}
	for _, r := range list.Receivers {
		last := r.Last
		if r.DisabledAt != nil {
			last = "disabled: it said that it is gone"
		}
		receivers = append(receivers, []string{r.Name, r.Kind, r.Host, last})
	}
	for _, t := range []struct {
		head []string
		rows [][]string
	}{{[]string{"BEGAN", "OVER", "RULE", "VALUE", "PEAK", "ALERT"}, alerts}, {[]string{"RECEIVER", "KIND", "HOST", "LAST MESSAGE"}, receivers}} {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := render.Table(w, t.head, t.rows); err != nil {
			return err
		}
	}
	return nil
}

func ruleState(r wire.AlertRule, now time.Time) string {
	state := "ok"
	switch {
	case r.AlertID != "":
		state = "firing " + r.AlertID
	case r.Since != nil:
		state = "pending since " + r.Since.Format(time.RFC3339)
	}
	if r.SilencedUntil != nil && r.SilencedUntil.After(now) {
		state += ", silenced until " + r.SilencedUntil.Format(time.RFC3339)
	}
	return state
}

func plainNumber(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func (a *app) alertsTestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "test RECEIVER",
		Short: "send a test message to a receiver; `nofx alerts list` says what became of it",
		Args:  cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			sent, err := client.TestAlert(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(sent, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, sent.MessageID, "is on its way")
				return err
			})
		}),
	}
}

func (a *app) alertsSilenceCommand() *cobra.Command {
	var span time.Duration
	cmd := &cobra.Command{
		Use:   "silence RULE",
		Short: "keep a rule from beginning an alert for a while",
		Args:  cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			if span < 0 || span > 30*24*time.Hour || span%time.Minute != 0 {
				return step.Errorf(step.KindInvalid, "--for %s: whole minutes up to 720h, 0 to end the silence", span)
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			return client.SilenceAlert(cmd.Context(), args[0], int(span.Minutes()))
		}),
	}
	cmd.Flags().DurationVar(&span, "for", time.Hour, "how long; 0 ends the silence")
	return cmd
}
