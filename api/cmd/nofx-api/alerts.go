package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/internal/bounded"
)

func alerts(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "receiver":
		return setReceiver(ctx, args[1:], out)
	case "rule":
		return setRule(ctx, args[1:])
	case "remove":
		return removeAlert(ctx, args[1:])
	}
	return errUsage
}

// setReceiver prints a webhook's secret, which is not shown again.
func setReceiver(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("nofx-api alerts receiver", flag.ContinueOnError)
	var r api.AlertReceiver
	flags.StringVar(&r.Tenant, "tenant", "", "the tenant's id")
	flags.StringVar(&r.Name, "name", "", "what the receiver is called")
	flags.StringVar(&r.Kind, "kind", "", "slack or webhook")
	file := flags.String("url-file", "", "a file with the url, which may be a secret; - is the standard input")
	if flags.Parse(args) != nil || r.Tenant == "" || r.Name == "" || r.Kind == "" || *file == "" || flags.NArg() > 0 {
		return errUsage
	}
	owner, err := ownerURL()
	if err != nil {
		return err
	}
	raw, err := readURL(*file)
	if err != nil {
		return fmt.Errorf("--url-file: %w", err)
	}
	r.URL, r.KeysetFile = strings.TrimSpace(raw), os.Getenv("NOFX_KEYSET_FILE")
	secret, err := api.SetAlertReceiver(ctx, owner, r)
	if err != nil || r.Kind != "webhook" {
		return err
	}
	_, err = fmt.Fprintln(out, secret)
	return err
}

const maxURL = 4096 // bytes

func readURL(file string) (string, error) {
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	raw, err := bounded.File(in, maxURL)
	return string(raw), err
}

func setRule(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nofx-api alerts rule", flag.ContinueOnError)
	var r api.AlertRule
	flags.StringVar(&r.Tenant, "tenant", "", "the tenant's id")
	flags.StringVar(&r.Name, "name", "", "what the rule is called")
	flags.StringVar(&r.Metric, "metric", "", strings.Join(api.AlertMetrics(), ", "))
	flags.Float64Var(&r.Above, "above", -1, "the alert begins when the value is above this")
	flags.Float64Var(&r.Below, "below", -1, "and is over at this or less; as above by default")
	flags.DurationVar(&r.For, "for", 0, "how long the value has to be above")
	if flags.Parse(args) != nil || r.Tenant == "" || r.Name == "" || r.Metric == "" || flags.NArg() > 0 {
		return errUsage
	}
	if r.Below == -1 {
		r.Below = r.Above
	}
	owner, err := ownerURL()
	if err != nil {
		return err
	}
	return api.SetAlertRule(ctx, owner, r)
}

func removeAlert(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nofx-api alerts remove", flag.ContinueOnError)
	tenant := flags.String("tenant", "", "the tenant's id")
	receiver := flags.String("receiver", "", "the receiver's name")
	rule := flags.String("rule", "", "the rule's name")
	if flags.Parse(args) != nil || *tenant == "" || (*receiver == "") == (*rule == "") || flags.NArg() > 0 {
		return errUsage
	}
	owner, err := ownerURL()
	if err != nil {
		return err
	}
	if *receiver != "" {
		return api.DropAlertReceiver(ctx, owner, *tenant, *receiver)
	}
	return api.DropAlertRule(ctx, owner, *tenant, *rule)
}
