package driversanity

import (
	"encoding/xml"
	"io"
	"strings"
	"unicode"
)

// The parts of JUnit's XML that those who read it agree on.
type junitSuites struct {
	XMLName xml.Name     `xml:"testsuites"`
	Suites  []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       float64         `xml:"time,attr"` // seconds
	Properties []junitProperty `xml:"properties>property"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Time    float64       `xml:"time,attr"`
	Failure *junitMessage `xml:"failure"`
	Skipped *junitMessage `xml:"skipped"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// JUnit writes the report as JUnit XML.
func (r Report) JUnit(w io.Writer) error {
	s := junitSuite{
		Name: "driver-sanity " + clean(r.Driver), Tests: len(r.Cases), Failures: r.Failed, Skipped: r.Skipped,
		Time: float64(r.DurationMS) / 1000,
		Properties: []junitProperty{
			{"driver", clean(r.Driver)}, {"version", clean(r.Version)}, {"grade", r.Grade}, {"capabilities", clean(strings.Join(r.Capabilities, " "))},
		},
	}
	for _, g := range r.Unjudged {
		s.Properties = append(s.Properties, junitProperty{"unjudged." + clean(g.Capability), clean(firstLine(g.Reason))})
	}
	for _, c := range r.Cases {
		jc := junitCase{Class: clean(r.Driver) + "." + c.Group, Name: c.Name, Time: float64(c.DurationMS) / 1000}
		if len(c.Seen) > 0 {
			m := &junitMessage{Message: clean(firstLine(c.Seen[0])), Text: clean(strings.Join(c.Seen, "\n"))}
			switch c.Status {
			case "failed":
				jc.Failure = m
			case "skipped":
				jc.Skipped = m
			}
		}
		s.Cases = append(s.Cases, jc)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(junitSuites{Suites: []junitSuite{s}}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// clean leaves out what XML cannot hold or a terminal would obey.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return '.'
	}, s)
}
