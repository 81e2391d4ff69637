package mcpserver

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/smolvm/smolvm/api"
)

// schemas returns the schemas of a tool's arguments and result. A schema says what the
// Go type does; bounds and defaults, which are the same wherever a word is used, come
// from limits.
func schemas[In, Out any](tool string) (in, out *jsonschema.Schema) {
	in, out = must(jsonschema.For[In](nil)), must(jsonschema.For[Out](nil))
	noNull(in)
	noNull(out)
	for name, property := range in.Properties {
		f, ok := limits[tool+"."+name]
		if !ok {
			f, ok = limits[name]
		}
		if ok {
			f(property)
		} else if property.Type != "boolean" {
			panic(fmt.Sprintf("%s.%s has no bounds", tool, name))
		}
	}
	return in, out
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // a mistake in this package's own types
	}
	return v
}

// noNull takes null out of what a schema allows: nil slices and pointers are left
// out of JSON here, and some models' APIs take one type only.
func noNull(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	s.Types = slices.DeleteFunc(s.Types, func(t string) bool { return t == "null" })
	if len(s.Types) == 1 {
		s.Type, s.Types = s.Types[0], nil
	}
	for _, p := range s.Properties {
		noNull(p)
	}
	noNull(s.Items)
	noNull(s.AdditionalProperties)
}

type limit = func(*jsonschema.Schema)

// The bounds of arguments. What is not said elsewhere is said here.
const (
	defaultTimeout = 50 // seconds: many clients give up after 60
	maxTimeout     = 24 * 3600
	maxCode        = 100 << 10 // Linux takes arguments of at most 128 KiB
	maxPath        = 4096
	maxContent     = 4 << 20
	maxText        = 64 << 10 // of one page
	defaultList    = 200
	maxList        = 2000
	maxEnvHere     = 100
)

// limits are by argument, or by tool and argument where they differ.
var limits = map[string]limit{
	"sandbox":         text(0, 64),
	"name":            pattern("^" + api.NamePattern + "$"),
	"image":           text(1, 512),
	"from_snapshot":   text(1, 64),
	"command":         text(1, maxCode),
	"code":            text(1, maxCode),
	"language":        oneOf(languageNames()...),
	"stdin":           text(0, 1<<20),
	"cwd":             pattern("^/"),
	"user":            text(1, 128),
	"env":             entries(maxEnvHere),
	"allow_hosts":     items(64, text(1, 300)),
	"path":            absolute,
	"content":         text(0, maxContent),
	"mode":            pattern("^[0-7]{3,4}$"),
	"encoding":        oneOf(api.EncodingUTF8, api.EncodingBase64),
	"output_id":       text(1, 80),
	"stream":          oneOf(streamOut, streamErr),
	"label":           text(0, api.MaxLabel),
	"id":              text(1, 64),
	"signal":          oneOf("SIGTERM", "SIGKILL", "SIGINT", "SIGHUP"),
	"scope":           oneOf(api.AnswerOnce, api.AnswerSandbox),
	"protocol":        oneOf(api.ProtoTCP, api.ProtoUDP),
	"timeout_seconds": number(1, maxTimeout, defaultTimeout),
	"ttl_seconds":     number(1, 30*24*3600, nil),
	"cpus":            number(1, 16, nil),
	"memory_mib":      number(api.MinMemoryMiB, 64<<10, nil),
	"disk_mib":        number(api.MinDiskMiB, 1<<20, nil),
	"offset":          number(0, 1<<40, 0),
	"limit":           number(1, maxText, outputLimit),
	"port":            number(1, 65535, nil),
	"host_port":       number(0, 65535, 0),
	"step":            number(0, 1<<20, nil),
	"fork.step":       number(-1, 1<<20, -1),
	"from":            number(-1, 1<<20, -1),
	"to":              number(-1, 1<<20, -1),
	"count":           number(1, 16, 1),

	"list_files.limit": number(1, maxList, defaultList),
}

func number(min, max float64, fallback any) limit {
	return func(s *jsonschema.Schema) {
		s.Minimum, s.Maximum = &min, &max
		if fallback != nil {
			s.Default = must(json.Marshal(fallback))
		}
	}
}

func text(min, max int) limit {
	return func(s *jsonschema.Schema) {
		s.MaxLength = &max
		if min > 0 {
			s.MinLength = &min
		}
	}
}

func pattern(p string) limit { return func(s *jsonschema.Schema) { s.Pattern = p } }

func absolute(s *jsonschema.Schema) {
	text(1, maxPath)(s)
	pattern("^/")(s)
}

// oneOf allows some words.
func oneOf(words ...string) limit {
	return func(s *jsonschema.Schema) {
		for _, w := range words {
			s.Enum = append(s.Enum, w)
		}
	}
}

func items(max int, each limit) limit {
	return func(s *jsonschema.Schema) {
		s.MaxItems = &max
		each(s.Items)
	}
}

func entries(max int) limit { return func(s *jsonschema.Schema) { s.MaxProperties = &max } }
