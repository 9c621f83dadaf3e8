package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"

	"outboxd/docker/internal/build"
)

// module is something that is linked into the binary.
type module struct {
	path, version string
	sum           string // as in go.sum, "" for Go itself
	licence       string // SPDX identifier
	texts         []text // its licence, and its notice
}

type text struct{ name, content string }

// modules returns what is linked into the binary, by what the linker wrote there, and
// Go's own library.
func (r *release) modules(binary []byte) ([]module, error) {
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return nil, err
	}
	root := module{path: "std", version: info.GoVersion}
	if err := root.read(runtime.GOROOT()); err != nil {
		return nil, err
	}
	all := []module{root}
	args := []string{"mod", "download", "-json"}
	for _, d := range info.Deps {
		if d.Replace != nil {
			return nil, fmt.Errorf("module %s is replaced: what is released is what was published", d.Path)
		}
		all = append(all, module{path: d.Path, version: d.Version, sum: d.Sum})
		args = append(args, d.Path+"@"+d.Version)
	}
	out, err := build.Go(r.source, nil, args...)
	if err != nil {
		return nil, err
	}
	dirs := make(map[string]string)
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var m struct{ Path, Dir string }
		if err := decoder.Decode(&m); err != nil {
			return nil, err
		}
		dirs[m.Path] = m.Dir
	}
	for i := range all[1:] {
		m := &all[i+1]
		if err := m.read(dirs[m.path]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

var licenceFile = regexp.MustCompile(`^(?i:licen[sc]e|copying|notice)([.-].*)?$`)

// read takes the licence and the notice of a module from its directory.
func (m *module) read(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the licence of %s: %w", m.path, err)
	}
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		m.texts = append(m.texts, text{e.Name(), string(content)})
		if found := identify(string(content)); found != "" && !strings.Contains(m.licence, found) {
			if m.licence != "" {
				m.licence += " AND "
			}
			m.licence += found
		}
	}
	if m.licence == "" {
		return fmt.Errorf("the licence of %s %s is not one of those that are known here: read it, and add it to release/modules.go if it permits what we do", m.path, m.version)
	}
	return nil
}

// known are sentences by which licences are told, the more particular first.
var known = []struct{ licence, sentence string }{
	{"Apache-2.0", "Apache License Version 2.0"},
	{"MPL-2.0", "Mozilla Public License Version 2.0"},
	{"MPL-2.0", "Mozilla Public License, version 2.0"},
	{"BSD-3-Clause", "may be used to endorse or promote products derived from this software without specific prior written permission"},
	{"BSD-2-Clause", "Redistributions in binary form must reproduce the above copyright notice"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted"},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy of this software"},
}

// identify returns the SPDX identifier of a licence's text, "" if it is not known.
func identify(content string) string {
	content = strings.Join(strings.Fields(content), " ")
	for _, k := range known {
		if strings.Contains(content, k.sentence) {
			return k.licence
		}
	}
	return ""
}

// licences is the file that goes with the binary: what the licences ask for.
func licences(modules []module) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "The binary is built from outboxd and the following, under the licences that follow each name.")
	for _, m := range modules {
		for _, t := range m.texts {
			line := strings.Repeat("=", 78)
			fmt.Fprintf(&b, "\n%s\n%s %s: %s\n%s\n\n%s\n", line, m.path, m.version, t.name, line, strings.TrimSpace(t.content))
		}
	}
	return b.Bytes()
}

// bill is the bill of materials, CycloneDX 1.6 as JSON. It has no serial number and no
// date, which would differ each time.
func (r *release) bill(modules []module) ([]byte, error) {
	bom := cyclonedx.NewBOM()
	self := cyclonedx.Component{
		BOMRef: "pkg:golang/outboxd@" + r.version, Type: cyclonedx.ComponentTypeApplication,
		Name: "outboxd", Version: r.version, PackageURL: "pkg:golang/outboxd@" + r.version,
	}
	bom.Metadata = &cyclonedx.Metadata{Component: &self}
	var components []cyclonedx.Component
	var refs []string
	for _, m := range modules {
		ref := "pkg:golang/" + m.path + "@" + m.version
		component := cyclonedx.Component{
			BOMRef: ref, Type: cyclonedx.ComponentTypeLibrary, Name: m.path, Version: m.version, PackageURL: ref, Scope: cyclonedx.ScopeRequired,
			Licenses: &cyclonedx.Licenses{expression(m.licence)},
		}
		if m.sum != "" {
			component.Properties = &[]cyclonedx.Property{{Name: "go:sum", Value: m.sum}}
		}
		components = append(components, component)
		refs = append(refs, ref)
	}
	bom.Components = &components
	slices.Sort(refs)
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: self.BOMRef, Dependencies: &refs}}
	var b bytes.Buffer
	err := cyclonedx.NewBOMEncoder(&b, cyclonedx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cyclonedx.SpecVersion1_6)
	return b.Bytes(), err
}

// expression is a licence in the form that CycloneDX has for one, or for several.
func expression(licence string) cyclonedx.LicenseChoice {
	if strings.Contains(licence, " AND ") {
		return cyclonedx.LicenseChoice{Expression: licence}
	}
	return cyclonedx.LicenseChoice{License: &cyclonedx.License{ID: licence}}
}
