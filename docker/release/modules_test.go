package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A licence that nobody has read ends the release.
func TestAnUnknownLicenceIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  string // the licence; "" that it is refused
	}{
		"none":           {map[string]string{"README.md": "MIT"}, ""},
		"unknown":        {map[string]string{"LICENSE": "You may use this on Sundays."}, ""},
		"GPL":            {map[string]string{"COPYING": "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007"}, ""},
		"MIT":            {map[string]string{"LICENSE": "Permission is hereby granted, free of charge,\nto any person obtaining a copy of this software"}, "MIT"},
		"with a notice":  {map[string]string{"LICENSE.txt": "Apache License\n   Version 2.0, January 2004", "NOTICE": "Made by somebody."}, "Apache-2.0"},
		"two":            {map[string]string{"LICENSE": "Apache License Version 2.0", "LICENSE-MIT": "Permission is hereby granted, free of charge, to any person obtaining a copy of this software"}, "Apache-2.0 AND MIT"},
		"its own clause": {map[string]string{"LICENCE": "Redistributions in binary form must reproduce the above copyright notice, ... may be used to endorse or promote products derived from this software without specific prior written permission."}, "BSD-3-Clause"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range test.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m := module{path: "example.com/m", version: "v1.0.0"}
			err := m.read(dir)
			switch {
			case test.want == "" && (err == nil || !strings.Contains(err.Error(), "example.com/m v1.0.0")):
				t.Errorf("licence %q, error %v", m.licence, err)
			case test.want != "" && (err != nil || m.licence != test.want):
				t.Errorf("licence %q (%v), want %q", m.licence, err, test.want)
			}
		})
	}
}
