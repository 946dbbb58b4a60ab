package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nofx-run/nofx/api"
)

// setRetention says how long a tenant's runs and artifacts are kept; what is
// not given stays as it is.
func setRetention(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nofx-api tenants retention", flag.ContinueOnError)
	var t api.TenantRetention
	flags.StringVar(&t.Tenant, "tenant", "", "the tenant's id")
	runs := flags.String("runs", "", "from their end: 30d, 36h, forever or default")
	artifacts := flags.String("artifacts", "", "from when they were made: 7d, 36h, forever (as long as their run) or default")
	if flags.Parse(args[1:]) != nil || t.Tenant == "" || *runs == "" && *artifacts == "" || flags.NArg() > 0 {
		return errUsage
	}
	var err error
	if t.Runs, err = keepFor("--runs", *runs); err != nil {
		return err
	}
	if t.Artifacts, err = keepFor("--artifacts", *artifacts); err != nil {
		return err
	}
	url, err := ownerURL()
	if err != nil {
		return err
	}
	return api.SetTenantRetention(ctx, url, t)
}

// keepFor reads how long something is kept; nil when nothing is said.
func keepFor(name, text string) (*api.KeepFor, error) {
	switch text {
	case "":
		return nil, nil
	case "default":
		return &api.KeepFor{Default: true}, nil
	case "forever":
		return &api.KeepFor{}, nil
	}
	if days, is := strings.CutSuffix(text, "d"); is {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%s %.40q: a number of days such as 30d", name, text)
		}
		return &api.KeepFor{For: time.Duration(n) * 24 * time.Hour}, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return nil, fmt.Errorf("%s %.40q: 30d, 36h, forever or default", name, text)
	}
	return &api.KeepFor{For: d}, nil
}

// previewRetention prints what is due. What removes it is the API.
func previewRetention(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("nofx-api retention", flag.ContinueOnError)
	dry := flags.Bool("dry-run", false, "print what is due to be removed, and remove nothing")
	if flags.Parse(args) != nil || !*dry || flags.NArg() > 0 {
		return errUsage
	}
	url := os.Getenv("NOFX_SYSTEM_DATABASE_URL")
	if url == "" {
		return errors.New("NOFX_SYSTEM_DATABASE_URL is not set")
	}
	return api.PreviewRetention(ctx, url, out)
}
