// Command nofx-api is the control API: it serves, migrates the schema, makes
// keys and prints its OpenAPI document.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/internal/buildinfo"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/wire"
)

const usage = `usage: nofx-api serve
       nofx-api migrate
       nofx-api keys create --tenant T --name N --role user|worker|operator
       nofx-api keys new FILE
       nofx-api keys list FILE
       nofx-api keys rotate [--stage] FILE
       nofx-api keys drop FILE ID
       nofx-api keys reseal
       nofx-api tenants network --tenant T --most none|allow|open [--private RULE]...
       nofx-api tenants limits --tenant T [--cpu N] [--memory-mb N] [--pids N] [--disk-mb N]
                               [--io-mb-s N] [--output-kb N] [--timeout D] [--clip]
       nofx-api tenants isolation --tenant T --least namespace|gvisor
       nofx-api tenants quota --tenant T [--compute-minutes N|none] [--runs N|none] [--steps N|none]
       nofx-api tenants residency --tenant T none|REGION...
       nofx-api tenants retention --tenant T [--runs D|forever|default] [--artifacts D|forever|default]
       nofx-api retention --dry-run
       nofx-api alerts receiver --tenant T --name N --kind slack|webhook --url-file F
       nofx-api alerts rule --tenant T --name N --metric M --above X [--below Y] [--for D]
       nofx-api alerts remove --tenant T --receiver N|--rule N
       nofx-api openapi
       nofx-api version
Configuration comes from the environment (NOFX_*).`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp), errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "nofx-api:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New(usage)

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "serve":
		return serve(ctx, out)
	case "migrate":
		return migrate(ctx, out)
	case "keys":
		return keys(ctx, args[1:], out)
	case "tenants":
		return tenants(ctx, args[1:])
	case "retention":
		return previewRetention(ctx, args[1:], out)
	case "alerts":
		return alerts(ctx, args[1:], out)
	case "openapi":
		text, err := api.OpenAPI()
		if err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	case "version", "--version":
		_, err := fmt.Fprintln(out, buildinfo.Version())
		return err
	}
	return errUsage
}

func serve(ctx context.Context, out io.Writer) error {
	cfg, err := api.FromEnv()
	if err != nil {
		return err
	}
	cfg.Points = failpoint.FromEnv()
	level := slog.LevelInfo
	if text := os.Getenv("NOFX_LOG_LEVEL"); text != "" {
		if err := level.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("NOFX_LOG_LEVEL: %w", err)
		}
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200) // what lives is small and what is thrown away is much: a tenth less work for some tens of MiB
	}
	a, err := api.New(ctx, cfg, slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level})))
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

func ownerURL() (string, error) {
	url := os.Getenv("NOFX_ADMIN_DATABASE_URL")
	if url == "" {
		return "", errors.New("NOFX_ADMIN_DATABASE_URL is not set")
	}
	return url, nil
}

func migrate(ctx context.Context, out io.Writer) error {
	url, err := ownerURL()
	if err != nil {
		return err
	}
	applied, err := api.Migrate(ctx, url)
	for _, name := range applied {
		fmt.Fprintln(out, "applied", name)
	}
	return err
}

func createKey(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("nofx-api keys create", flag.ContinueOnError)
	var k api.NewKey
	flags.StringVar(&k.Tenant, "tenant", "", "the tenant's id; made if it is not there")
	flags.StringVar(&k.Name, "name", "", "what the key is for")
	flags.StringVar(&k.Role, "role", "", "user, worker or operator")
	if err := flags.Parse(args[1:]); err != nil {
		return errUsage
	}
	if k.Tenant == "" || k.Name == "" || k.Role == "" || flags.NArg() > 0 {
		return errUsage
	}
	url, err := ownerURL()
	if err != nil {
		return err
	}
	text, err := api.CreateKey(ctx, url, k)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, text)
	return err
}

func tenants(ctx context.Context, args []string) error {
	switch {
	case len(args) == 0:
		return errUsage
	case args[0] == "network":
		return setNetwork(ctx, args)
	case args[0] == "limits":
		return setLimits(ctx, args)
	case args[0] == "isolation":
		return setIsolation(ctx, args)
	case args[0] == "quota":
		return setQuota(ctx, args)
	case args[0] == "residency":
		return setResidency(ctx, args)
	case args[0] == "retention":
		return setRetention(ctx, args)
	}
	return errUsage
}

// setLimits says all ceilings of a tenant anew: what is not given has none.
func setLimits(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nofx-api tenants limits", flag.ContinueOnError)
	var c wire.TenantCeiling
	var timeout time.Duration
	tenant := flags.String("tenant", "", "the tenant's id")
	flags.Float64Var(&c.CPU, "cpu", 0, "cores")
	flags.Int64Var(&c.MemoryMB, "memory-mb", 0, "MiB")
	flags.Int64Var(&c.Pids, "pids", 0, "processes and threads")
	flags.Int64Var(&c.DiskMB, "disk-mb", 0, "MiB of the workspace")
	flags.Int64Var(&c.IOMBs, "io-mb-s", 0, "MiB a second from and to disks")
	flags.Int64Var(&c.OutputKB, "output-kb", 0, "KiB of output")
	flags.DurationVar(&timeout, "timeout", 0, "wall time")
	clip := flags.Bool("clip", false, "a step that asks for more gets the most, in place of a refusal")
	if err := flags.Parse(args[1:]); err != nil {
		return errUsage
	}
	if *tenant == "" || flags.NArg() > 0 {
		return errUsage
	}
	url, err := ownerURL()
	if err != nil {
		return err
	}
	if c.TimeoutMS = timeout.Milliseconds(); c.TimeoutMS == 0 && timeout != 0 {
		return fmt.Errorf("timeout %s is less than a millisecond; leave it out for no limit", timeout)
	}
	return api.SetTenantCeiling(ctx, url, *tenant, c, *clip)
}

func setIsolation(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nofx-api tenants isolation", flag.ContinueOnError)
	tenant := flags.String("tenant", "", "the tenant's id")
	least := flags.String("least", "", "the least that every step gets: namespace or gvisor")
	if flags.Parse(args[1:]) != nil || *tenant == "" || *least == "" || flags.NArg() > 0 {
		return errUsage
	}
	url, err := ownerURL()
	if err != nil {
		return err
	}
	return api.SetTenantIsolation(ctx, url, *tenant, *least)
}

// setResidency wants to be told that there is to be no rule: none at all may be
// a variable that was not set.
func setResidency(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nofx-api tenants residency", flag.ContinueOnError)
	tenant := flags.String("tenant", "", "the tenant's id")
	if flags.Parse(args[1:]) != nil || *tenant == "" || flags.NArg() == 0 {
		return errUsage
	}
	regions := flags.Args()
	if len(regions) == 1 && regions[0] == "none" {
		regions = nil
	}
	if slices.Contains(regions, "none") {
		return errors.New("none goes with no other region")
	}
	url, err := ownerURL()
	if err != nil {
		return err
	}
	return api.SetTenantResidency(ctx, url, *tenant, regions)
}

func setQuota(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nofx-api tenants quota", flag.ContinueOnError)
	tenant := flags.String("tenant", "", "the tenant's id")
	minutes := flags.String("compute-minutes", "", "wall time times cores, in a month (UTC); none: not bounded")
	runs := flags.String("runs", "", "how many of its runs may be under way at once; none: not bounded")
	steps := flags.String("steps", "", "how many of its steps may run at once; none: not bounded")
	if err := flags.Parse(args[1:]); err != nil {
		return errUsage
	}
	if *tenant == "" || *minutes+*runs+*steps == "" || flags.NArg() > 0 {
		return errUsage
	}
	atOnce := map[string]*int32{}
	for name, text := range map[string]string{"runs": *runs, "steps": *steps} {
		switch text {
		case "":
			continue
		case "none":
			atOnce[name] = new(int32)
			continue
		}
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 1 {
			return fmt.Errorf("--%s %.40q: a number from 1 on, or none", name, text)
		}
		bound := int32(n)
		atOnce[name] = &bound
	}
	var most *float64
	if *minutes != "none" && *minutes != "" {
		n, err := strconv.ParseFloat(*minutes, 64)
		if err != nil {
			return fmt.Errorf("--compute-minutes %.40q: a number of minutes, or none", *minutes)
		}
		most = &n
	}
	url, err := ownerURL()
	if err != nil {
		return err
	}
	// The minutes first: of the two only they can still be refused.
	if *minutes != "" {
		if err := api.SetTenantQuota(ctx, url, *tenant, most); err != nil {
			return err
		}
	}
	if len(atOnce) == 0 {
		return nil
	}
	return api.SetTenantConcurrency(ctx, url, *tenant, atOnce["runs"], atOnce["steps"])
}

func setNetwork(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nofx-api tenants network", flag.ContinueOnError)
	var n api.TenantNetwork
	flags.StringVar(&n.Tenant, "tenant", "", "the tenant's id")
	flags.StringVar(&n.Most, "most", "", "the most that a step may ask for: none, allow or open")
	flags.Func("private", "what may be called though it is not on the Internet, such as 10.1.2.0/24:5432; may be repeated", func(rule string) error {
		n.Private = append(n.Private, rule)
		return nil
	})
	if err := flags.Parse(args[1:]); err != nil {
		return errUsage
	}
	if n.Tenant == "" || n.Most == "" || flags.NArg() > 0 {
		return errUsage
	}
	url, err := ownerURL()
	if err != nil {
		return err
	}
	return api.SetTenantNetwork(ctx, url, n)
}
