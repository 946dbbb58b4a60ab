// Command river-enqueue is the smallest user of River: for each line on its
// standard input it inserts a job and says, in nanoseconds, how long after that
// a worker had it. It lets River look for jobs as often as River allows, which
// its defaults do not.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: river-enqueue DATABASE-URL")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "river-enqueue:", err)
		os.Exit(1)
	}
}

type job struct{}

func (job) Kind() string { return "nothing" }

// worker tells when a job was with it.
type worker struct {
	river.WorkerDefaults[job]
	had chan time.Time
}

func (w *worker) Work(ctx context.Context, _ *river.Job[job]) error {
	select {
	case w.had <- time.Now():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func run(ctx context.Context, url string, in io.Reader, out io.Writer) (err error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	w := &worker{had: make(chan time.Time, 1)}
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues:        map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 16}},
		Workers:       workers,
		FetchCooldown: river.FetchCooldownMin,
		Logger:        slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, client.Stop(stop))
	}()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		begun := time.Now()
		if _, err := client.Insert(ctx, job{}, nil); err != nil {
			return err
		}
		fmt.Fprintln(out, (<-w.had).Sub(begun).Nanoseconds())
	}
	return nil
}
