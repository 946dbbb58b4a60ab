package memdriver

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// shell runs a script of a few constructs: commands with quotes and $NAME,
// joined by ; newline && and ||, pipes, > and >> to files, >&2, cd and exit.
// What it does not know it refuses; there are no loops and no functions.
func shell(t *task, args []string) (int, error) {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && !strings.HasSuffix(args[0], "c") {
		args = args[1:]
	}
	if len(args) < 2 || !strings.HasPrefix(args[0], "-") {
		return fail(t, errors.New("only -c SCRIPT is known"))
	}
	words, err := scan(args[1], func(name string) string { return lookup(t, name) })
	if err != nil {
		fmt.Fprintf(t.stderr, "%s: %v\n", t.argv[0], err)
		return 2, nil
	}
	code := 0
	var pipeline []command
	var cur command
	run := true // whether the next pipeline is to run, after && or ||
	flush := func(next string) (bool, error) {
		if len(cur.argv) > 0 {
			pipeline = append(pipeline, cur)
		}
		cur = command{}
		if len(pipeline) > 0 && run {
			c, exits, err := runPipeline(t, pipeline, code)
			code = c
			if err != nil || exits {
				return true, err
			}
		}
		pipeline = nil
		switch next {
		case "&&":
			run = code == 0
		case "||":
			run = code != 0
		default:
			run = true
		}
		return false, t.alive()
	}
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case !w.op:
			cur.argv = append(cur.argv, w.text)
		case w.text == "|":
			pipeline = append(pipeline, cur)
			cur = command{}
		case w.text == ">&2":
			cur.toStderr = true
		case w.text == ">" || w.text == ">>":
			if i+1 == len(words) || words[i+1].op {
				return fail(t, errors.New("a file name is missing after "+w.text))
			}
			i++
			cur.file, cur.appends = words[i].text, w.text == ">>"
		default:
			if end, err := flush(w.text); end || err != nil {
				return code, err
			}
		}
	}
	_, err = flush(";")
	return code, err
}

// command is one command of a script.
type command struct {
	argv     []string
	file     string
	appends  bool
	toStderr bool
}

// runPipeline runs commands one after the other, each with what the one
// before it wrote as its input. exits says that the script ends here.
func runPipeline(t *task, cmds []command, last int) (code int, exits bool, err error) {
	stdin, stdout := t.stdin, t.stdout
	defer func() { t.stdin, t.stdout = stdin, stdout }()
	for i, c := range cmds {
		if len(c.argv) == 0 {
			return 2, true, nil
		}
		var buf bytes.Buffer
		t.stdout = stdout
		switch {
		case c.toStderr:
			t.stdout = t.stderr
		case c.file != "" || i < len(cmds)-1:
			t.stdout = &buf
		}
		switch c.argv[0] {
		case "exit":
			code = last
			if len(c.argv) > 1 {
				code, _ = strconv.Atoi(c.argv[1])
			}
			return code & 255, true, nil
		case "cd":
			if len(c.argv) > 1 {
				dir := t.abs(c.argv[1])
				if err := t.x.sb.files.isDir(dir); err != nil {
					code, _ = fail(t, err)
					continue
				}
				t.cwd = dir
			}
			code = 0
		case "set", "trap", "export":
			code = 0
		default:
			if code, err = t.command(c.argv); err != nil {
				return code, true, err
			}
		}
		if c.file != "" {
			if err := t.x.sb.files.write(t.abs(c.file), buf.Bytes(), 0o644, c.appends); err != nil {
				code, _ = fail(t, err)
			}
			buf.Reset()
		}
		t.stdin = bytes.NewReader(buf.Bytes())
	}
	return code, false, nil
}

// lookup is the value of a variable.
func lookup(t *task, name string) string {
	if name == "$" {
		return "1"
	}
	for _, kv := range t.env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// word is a word of a script, or an operator.
type word struct {
	text string
	op   bool
}

// scan takes a script apart.
func scan(script string, value func(string) string) ([]word, error) {
	var words []word
	var cur strings.Builder
	in := false // in a word
	end := func() {
		if in {
			words = append(words, word{text: cur.String()})
		}
		cur.Reset()
		in = false
	}
	for i := 0; i < len(script); i++ {
		c := script[i]
		switch {
		case c == '\'':
			j := strings.IndexByte(script[i+1:], '\'')
			if j < 0 {
				return nil, errors.New("a ' is not closed")
			}
			cur.WriteString(script[i+1 : i+1+j])
			in, i = true, i+1+j
		case c == '"':
			in = true
			for i++; ; i++ {
				if i >= len(script) {
					return nil, errors.New(`a " is not closed`)
				}
				if script[i] == '"' {
					break
				}
				if script[i] == '\\' && i+1 < len(script) && strings.IndexByte(`"\$`, script[i+1]) >= 0 {
					i++
					cur.WriteByte(script[i])
				} else if script[i] == '$' {
					i += expand(script[i+1:], &cur, value)
				} else {
					cur.WriteByte(script[i])
				}
			}
		case c == '\\' && i+1 < len(script):
			i++
			if script[i] != '\n' {
				cur.WriteByte(script[i])
				in = true
			}
		case c == '$':
			i += expand(script[i+1:], &cur, value)
			in = true
		case c == '#' && !in:
			for i+1 < len(script) && script[i+1] != '\n' {
				i++
			}
		case c == ' ' || c == '\t':
			end()
		case strings.IndexByte(";\n|&><", c) >= 0:
			op := string(c)
			for _, long := range []string{">&2", ">>", "&&", "||"} {
				if strings.HasPrefix(script[i:], long) {
					op = long
					break
				}
			}
			if op == "&" || op == "<" {
				return nil, fmt.Errorf("%s is not known here", op)
			}
			if op == ">&2" && cur.String() == "1" {
				cur.Reset()
				in = false
			}
			end()
			words = append(words, word{text: op, op: true})
			i += len(op) - 1
		case c == '`' || c == '(' || c == ')':
			return nil, fmt.Errorf("%c is not known here", c)
		default:
			cur.WriteByte(c)
			in = true
		}
	}
	end()
	return words, nil
}

// expand writes the value of the variable that s begins with, and gives the
// length of its name in s.
func expand(s string, to *strings.Builder, value func(string) string) int {
	if strings.HasPrefix(s, "$") {
		to.WriteString(value("$"))
		return 1
	}
	if strings.HasPrefix(s, "{") {
		if j := strings.IndexByte(s, '}'); j > 0 {
			to.WriteString(value(s[1:j]))
			return j + 1
		}
	}
	n := 0
	for n < len(s) && (s[n] == '_' || s[n] >= 'A' && s[n] <= 'Z' || s[n] >= 'a' && s[n] <= 'z' || n > 0 && s[n] >= '0' && s[n] <= '9') {
		n++
	}
	if n == 0 {
		to.WriteByte('$')
		return 0
	}
	to.WriteString(value(s[:n]))
	return n
}
