package main

import (
	"fmt"
	"html"
	"os"
	"strings"
)

// panel is a bar chart of one quantity.
type panel struct {
	title string
	bars  []bar
}

type bar struct {
	name  string
	value float64
}

// writePlot draws panels below each other, as an SVG file. Each panel has its own
// scale from 0; the first bar, the one that is compared, stands out.
func writePlot(path, title string, panels []panel) error {
	const width, names, numbers, rowHeight, gap = 760, 270, 90, 22, 34
	var b strings.Builder
	y := 26
	fmt.Fprintf(&b, `<text x="8" y="%d" font-size="15" font-weight="bold">%s</text>`+"\n", y, html.EscapeString(title))
	for _, p := range panels {
		y += gap
		fmt.Fprintf(&b, `<text x="8" y="%d" font-weight="bold">%s</text>`+"\n", y-8, html.EscapeString(p.title))
		most := 0.0
		for _, bar := range p.bars {
			most = max(most, bar.value)
		}
		for i, bar := range p.bars {
			length, color := 0.0, "#9aa5b1"
			if most > 0 {
				length = bar.value / most * (width - names - numbers)
			}
			if i == 0 {
				color = "#2563eb"
			}
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text><rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%s</text>`+"\n",
				names-8, y+15, html.EscapeString(bar.name), names, y+2, length, rowHeight-5, color, names+length+6, y+15, number(bar.value))
			y += rowHeight
		}
	}
	svg := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13">
<rect width="100%%" height="100%%" fill="white"/>
%s</svg>
`, width, y+12, b.String())
	return os.WriteFile(path, []byte(svg), 0o644)
}

// number prints a value in as many digits as tell something.
func number(v float64) string {
	switch {
	case v >= 1000:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
