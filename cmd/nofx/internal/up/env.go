package up

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// ClientEnv is the name of the file in the data folder that tells clients how
// to reach the system, as lines of KEY=VALUE.
const ClientEnv = "client.env"

// Endpoint is how a client reaches the API.
type Endpoint struct {
	URL    string // https://HOST:PORT
	Key    string // a user's API key
	CAFile string // PEM; "" = the system's authorities
}

func writeClientEnv(dir string, e Endpoint) error {
	body := fmt.Sprintf("NOFX_API_URL=%s\nNOFX_API_KEY=%s\nNOFX_CA_FILE=%s\n", Quote(e.URL), Quote(e.Key), Quote(e.CAFile))
	return renameio.WriteFile(filepath.Join(dir, ClientEnv), []byte(body), 0o600)
}

// Quote makes a word of a value for a shell, which reads the file with ".".
func Quote(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%", r)
	}) < 0
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '\'' && s[len(s)-1] == '\'' {
		return strings.ReplaceAll(s[1:len(s)-1], `'\''`, "'")
	}
	return s
}

// ReadClientEnv reads the file at path.
func ReadClientEnv(path string) (Endpoint, error) {
	f, err := os.Open(path)
	if err != nil {
		return Endpoint{}, err
	}
	defer f.Close()
	var e Endpoint
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		if !ok {
			continue
		}
		switch value = unquote(value); key {
		case "NOFX_API_URL":
			e.URL = value
		case "NOFX_API_KEY":
			e.Key = value
		case "NOFX_CA_FILE":
			e.CAFile = value
		}
	}
	return e, lines.Err()
}

// lastLine is the last line of a program's output, for an error.
func lastLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndexByte(text, '\n')+1:]
}
