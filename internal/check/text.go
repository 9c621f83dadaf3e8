package check

import (
	"fmt"
	"io"
	"strings"

	"outboxd/internal/finding"
)

// symbols stand for the words on a terminal.
var symbols = map[finding.Level]string{finding.OK: "✓", finding.Warn: "!", finding.Fail: "✗"}

// Text writes the report for people: a line for each check, below it how to fix it,
// then the promises and the result. A terminal gets symbols.
func (r Report) Text(w io.Writer, terminal bool) error {
	var b strings.Builder
	width := 0
	for _, g := range r.Groups {
		for _, f := range g.Findings {
			width = max(width, len(f.Subject))
		}
	}
	width = min(width, 32)
	for _, g := range r.Groups {
		fmt.Fprintf(&b, "%s\n", g.Name)
		for _, f := range g.Findings {
			writeFinding(&b, f, width, terminal)
		}
		b.WriteByte('\n')
	}
	b.WriteString("This set-up can promise\n")
	for _, p := range r.Promises {
		answer := "no"
		switch {
		case !p.Known:
			answer = "?"
		case p.Holds:
			answer = "yes"
		}
		fmt.Fprintf(&b, "  %-3s  %-*s  %s\n", answer, width, p.Name, oneLine(p.Text))
		if p.Change != "" {
			fmt.Fprintf(&b, "       %-*s  -> %s\n", width, "", oneLine(p.Change))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.summary())
	_, err := io.WriteString(w, b.String())
	return err
}

func writeFinding(b *strings.Builder, f finding.Finding, width int, terminal bool) {
	mark := fmt.Sprintf("%-4s", f.Level)
	if terminal {
		mark = fmt.Sprintf("%-4s", symbols[f.Level])
	}
	fmt.Fprintf(b, "  %s  %-*s  %s\n", mark, width, f.Subject, oneLine(f.Text))
	if f.Level == finding.OK {
		return
	}
	indent := strings.Repeat(" ", 2+4+2+width+2)
	if f.Fix != "" {
		fmt.Fprintf(b, "%s-> %s\n", indent, oneLine(f.Fix))
	}
	for _, sql := range f.SQL {
		fmt.Fprintf(b, "%s   %s;\n", indent, oneLine(sql))
	}
	if f.Command != "" {
		fmt.Fprintf(b, "%s   %s\n", indent, f.Command)
	}
}

// oneLine keeps a line one, and what a server said from writing to the terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.Join(strings.Fields(text), " "))
}

// summary counts what is not ok.
func (r Report) summary() string {
	var fails, warnings int
	for _, g := range r.Groups {
		for _, f := range g.Findings {
			switch f.Level {
			case finding.Fail:
				fails++
			case finding.Warn:
				warnings++
			}
		}
	}
	text := fmt.Sprintf("%d FAIL, %d warn", fails, warnings)
	switch {
	case fails > 0:
		return text + ": outboxd would not deliver; fix the FAIL lines and check again"
	case warnings > 0:
		return text + ": outboxd would deliver; see the warnings"
	}
	return "all ok"
}
