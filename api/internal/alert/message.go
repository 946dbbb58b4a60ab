package alert

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
)

// Message is what one receiver is told.
type Message struct {
	ID     string
	Kind   string // fired, resolved or test
	Tenant string
	At     time.Time
	Alert  wire.Alert // none in a test
}

// webhook is the body for a webhook: {"type","timestamp","data"}, as Standard
// Webhooks has it.
func (m Message) webhook() ([]byte, error) {
	data := struct {
		Tenant string `json:"tenant"`
		*wire.Alert
	}{Tenant: m.Tenant}
	if m.Kind != "test" {
		data.Alert = &m.Alert
	}
	return json.Marshal(map[string]any{"type": "alert." + m.Kind, "timestamp": m.At.UTC().Format(time.RFC3339), "data": data})
}

type block map[string]any

// slack is the body for an incoming webhook of Slack's, in Block Kit.
func (m Message) slack() ([]byte, error) {
	title := m.title()
	blocks := []block{{"type": "header", "text": block{"type": "plain_text", "text": cut(title, 150)}}}
	if m.Kind != "test" {
		fields := []block{}
		for _, f := range m.facts() {
			fields = append(fields, block{"type": "mrkdwn", "text": "*" + f[0] + "*\n" + escape(f[1])})
		}
		blocks = append(blocks, block{"type": "section", "fields": fields})
	}
	blocks = append(blocks, block{"type": "context", "elements": []block{{"type": "mrkdwn", "text": escape("NOFX · tenant " + m.Tenant + " · " + m.ID)}}})
	return json.Marshal(map[string]any{"text": cut(escape(title), 3000), "blocks": blocks})
}

func (m Message) title() string {
	switch m.Kind {
	case "resolved":
		return "Resolved: " + m.Alert.Rule
	case "test":
		return "Test: alerts reach you"
	}
	return "Alert: " + m.Alert.Rule
}

func (m Message) facts() [][2]string {
	a := m.Alert
	facts := [][2]string{{"Metric", a.Metric}, {"Value", number(a.Value) + " (rule: above " + number(a.Above) + ")"}, {"Since", a.OpenedAt.UTC().Format(time.RFC3339)}}
	if a.ResolvedAt != nil {
		facts = append(facts, [2]string{"Over at", a.ResolvedAt.UTC().Format(time.RFC3339)},
			[2]string{"Took", fmt.Sprint(a.ResolvedAt.Sub(a.OpenedAt).Round(time.Second))}, [2]string{"Peak", number(a.Peak)})
	}
	return facts
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// escape is for Slack's own marks.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// cut is what of a text the database and a receiver can have: some come from
// whoever is at the other end.
func cut(s string, n int) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s[:min(len(s), n)], "\x00", ""), "")
}
