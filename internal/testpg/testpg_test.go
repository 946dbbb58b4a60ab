package testpg

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

var server *Server

func TestMain(m *testing.M) {
	Main(m, func(ctx context.Context, ownerURL string) error {
		conn, err := pgx.Connect(ctx, ownerURL)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "CREATE TABLE thing (n int); INSERT INTO thing VALUES (7)")
		return err
	}, &server)
}

// Two tests see the template's content and nothing of each other.
func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"one", "two"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := pgx.Connect(t.Context(), server.Database(t).Admin)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			var sum int
			if err := conn.QueryRow(t.Context(), "UPDATE thing SET n = n + 1 RETURNING n").Scan(&sum); err != nil || sum != 8 {
				t.Errorf("n = %d, %v; want 8", sum, err)
			}
		})
	}
}
